import { readConfig, readKey } from "../config.ts";
import type { Target } from "../dashboard/feed.ts";
import { live, once } from "../dashboard/live.ts";
import { CliError, exitCode, QuietExit } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { say } from "../output.ts";
import { chooseContext } from "../session.ts";

export async function dashboard({ capsule: chosen, format }: Globals): Promise<void> {
  if (format !== "table") {
    throw new CliError(
      `-o ${format}: the dashboard is for people. For programs there are capsule info, capsule stats, workload list and workload stats.`,
      exitCode.usage,
    );
  }
  const { targets, shown } = await chooseTargets(chosen);
  const isTerminal = process.stdin.isTTY && process.stdout.isTTY && process.env["TERM"] !== "dumb";
  if (isTerminal) return await live(targets, readKey(), shown);
  const { lines, isWhole } = await once(targets, readKey());
  say(lines.join("\n"));
  // What is the matter stands in the text.
  if (!isWhole) throw new QuietExit(exitCode.failed);
}

/** Those that are named, else all that are known, with the current one in front of the eyes. */
async function chooseTargets(chosen: string | undefined): Promise<{ targets: Target[]; shown: number }> {
  const named = chosen ?? process.env["CAPSULE_HOST"] ?? "";
  const { contexts, current } = await readConfig();
  const all = Object.entries(contexts).map(([name, context]) => ({ name, context }));
  if (named === "" && all.length > 0) {
    return {
      targets: all,
      shown: Math.max(
        0,
        all.findIndex(({ name }) => name === current),
      ),
    };
  }
  const targets: Target[] = [];
  for (const one of named === "" ? [undefined] : named.split(",")) {
    if (one?.trim() === "")
      throw new CliError(`--capsule ${named}: there is nothing at one side of a comma`, exitCode.usage);
    const target = await chooseContext(one?.trim());
    if (targets.every(({ name }) => name !== target.name)) targets.push(target);
  }
  return { targets, shown: 0 };
}
