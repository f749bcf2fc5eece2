/** `capsule debug`: the same exec as in workloads and volumes, on the machine itself. */
import type { ExecRequest, ExecResponse } from "@capsule/api";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { say } from "../output.ts";
import { reasonOf } from "../rpc-errors.ts";
import { type Capsule, withCapsule } from "../session.ts";
import { run } from "./exec-actions.ts";
import { fetchImage } from "./image-actions.ts";

export interface DebugOptions {
  readonly image?: string;
  readonly keep?: boolean;
  readonly end?: boolean;
}

/** Ends with the command's own exit code. In a terminal the command has one too. */
export async function debug(globals: Globals, words: string[], options: DebugOptions): Promise<void> {
  if (options.end === true) {
    if (words.length > 0 || options.keep === true || options.image !== undefined)
      throw new CliError("--end stands alone", exitCode.usage);
    return await end(globals);
  }
  const command = words[0] === "--" ? words.slice(1) : words;
  const tty = process.stdin.isTTY === true && process.stdout.isTTY === true;
  const call = (capsule: Capsule, requests: AsyncIterable<ExecRequest>): AsyncIterable<ExecResponse> =>
    capsule.capsule.debug(requests);
  const session = (): Promise<void> => run(globals.capsule, "", command, { ...options, stdin: true, tty }, call);
  try {
    await session();
  } catch (error) {
    if (options.image === undefined || reasonOf((error as Error).cause ?? error) !== "NO_IMAGE") throw error;
    await fetchImage(globals.capsule, options.image);
    await session();
  }
}

async function end({ capsule: chosen }: Globals): Promise<void> {
  const { ended } = await withCapsule(chosen, ({ capsule }) => capsule.endDebug({}));
  say(ended ? "The debug container is gone." : "No debug container was kept.");
}
