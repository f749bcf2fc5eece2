import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

export function addDiscoverCommand(program: Command): void {
  program
    .command("discover")
    .description("find capsules on the networks of this machine; their fingerprints are read from themselves")
    .option("--watch", "go on, and tell what comes, changes and goes, until a signal comes or the time is over")
    .option("--timeout <duration>", "how long to look (default: 3s; with --watch no end)")
    .action(async (options: { watch?: boolean; timeout?: string }, command: Command) => {
      const { discover } = await import("./discover-actions.ts");
      await discover(globalsOf(command), options);
    });
}
