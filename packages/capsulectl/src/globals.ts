import type { Command } from "commander";
import { checkedFormat, type Format } from "./output.ts";

/** Options before the verb. */
export interface Globals {
  readonly capsule: string | undefined;
  readonly format: Format;
}

export function globalsOf(command: Command): Globals {
  const { capsule, output } = command.optsWithGlobals() as { capsule?: string; output?: string };
  return { capsule, format: checkedFormat(output ?? "table") };
}
