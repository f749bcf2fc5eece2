import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

export function addDashboardCommand(program: Command): void {
  program
    .command("dashboard")
    .description(
      "a live view of capsules and what runs on them (docs/dashboard.md): of those that --capsule names, with commas between them, or of all that you know",
    )
    .action(async (_: object, command: Command) => {
      await (await import("./dashboard-actions.ts")).dashboard(globalsOf(command));
    });
}
