import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

export function addCopyCommand(program: Command): void {
  program
    .command("cp <source> <destination>")
    .description(
      "copy files and trees into a workload (WORKLOAD:/path on one side) or out of it, as `docker cp` does; volume/NAME:/path for a volume that no workload uses",
    )
    .action(async (source: string, destination: string, _: object, command: Command) => {
      await (await import("./copy-actions.ts")).copy(globalsOf(command), source, destination);
    });
}
