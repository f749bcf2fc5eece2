import { type Command, Option } from "commander";
import { checkedFormat, type Format } from "./output.ts";

/** Options before the verb. */
export interface Globals {
  readonly capsule: string | undefined;
  readonly format: Format;
}

/** The nearest to the verb wins: both may stand before it and behind it. */
export function globalsOf(command: Command): Globals {
  const found: { capsule?: string; output?: string } = {};
  for (let one: Command | null = command; one !== null; one = one.parent) {
    const { capsule, output } = one.opts() as { capsule?: string; output?: string };
    if (capsule !== undefined) found.capsule ??= capsule;
    if (output !== undefined) found.output ??= output;
  }
  return { capsule: found.capsule, format: checkedFormat(found.output ?? "table") };
}

/** Lets every verb take the options of the program too. */
export function addGlobals(program: Command): void {
  for (const command of program.commands) {
    if (command.commands.length > 0) addGlobals(command);
    else if (!command.name().startsWith("__")) {
      command.addOption(new Option("--capsule <name>").hideHelp());
      command.addOption(new Option("-o, --output <format>").hideHelp());
    }
  }
}
