import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./pool-actions.ts");

export function addPoolCommands(program: Command): void {
  const pool = program.command("pool").description("where volumes lie");
  pool
    .command("list")
    .description("list pools with what they hold and what they have promised")
    .action(async (_: object, command: Command) => (await actions()).list(globalsOf(command)));
  pool
    .command("set <name>")
    .description("change what may be changed of a pool")
    .requiredOption("--overcommit <percent>", "how much its volumes may be together, of its size (default: 300)")
    .action(async (name: string, options: { overcommit: string }, command: Command) => {
      await (await actions()).set(globalsOf(command), name, options);
    });
}
