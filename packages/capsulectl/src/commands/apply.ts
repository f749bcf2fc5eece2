import type { Command } from "commander";
import { globalsOf } from "../globals.ts";
import type { ApplyOptions } from "./apply-actions.ts";

export function addApplyCommands(program: Command): void {
  program
    .command("apply")
    .description("make the resources of manifests the wanted state: all of them, or none")
    .requiredOption("-f, --file <path...>", "a file, a directory of *.yaml and *.yml, or - for stdin; may be repeated")
    .option("--wait [duration]", "wait until everything runs, at most so long (default 5m)")
    .option("--dry-run", "check it on the capsule and tell what would change; change nothing")
    .option(
      "--confirm-within <duration>",
      "of a Machine that changes links: the capsule takes it back by itself when it was not reached by them so long, 10s to 10m (1m)",
    )
    .option("--no-confirm", "leave that confirmation to you: `capsulectl machine confirm`")
    .action(async (options: ApplyOptions, command: Command) => {
      const { apply } = await import("./apply-actions.ts");
      await apply(globalsOf(command), options);
    });
  program
    .command("diff")
    .description("tell what an apply would change; exits with 0 either way")
    .requiredOption("-f, --file <path...>", "as in apply")
    .action(async (options: { file: string[] }, command: Command) => {
      const { diff } = await import("./apply-actions.ts");
      await diff(globalsOf(command), options);
    });
  program
    .command("delete")
    .description("delete the resources of manifests, and wait until they are gone")
    .requiredOption("-f, --file <path...>", "as in apply")
    .option("--no-wait", "do not wait")
    .action(async (options: { file: string[]; wait: boolean }, command: Command) => {
      const { deleteFiles } = await import("./apply-actions.ts");
      await deleteFiles(globalsOf(command), options);
    });
}
