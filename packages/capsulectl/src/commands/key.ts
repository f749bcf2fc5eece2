import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./key-actions.ts");

export function addKeyCommands(program: Command): void {
  const key = program.command("key").description("keys that may talk to the capsule");
  key
    .command("list")
    .description("list them with their roles")
    .action(async (_: object, command: Command) => (await actions()).list(globalsOf(command)));
  key
    .command("add <name> <public-key>")
    .description("enrol a key, as `capsulectl key show` prints it on its owner's machine")
    .requiredOption(
      "--role <role>",
      "viewer (reads), operator (also runs workloads) or admin (also keys and the machine)",
    )
    .action(async (name: string, publicKey: string, options: { role: string }, command: Command) => {
      await (await actions()).add(globalsOf(command), name, publicKey, options.role);
    });
  key
    .command("remove <key>")
    .description("remove a key by id or name; its open calls end")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).remove(globalsOf(command), name);
    });
  key
    .command("show")
    .description("print your own public key, for somebody's `capsulectl key add`")
    .action(async () => (await actions()).show());

  program
    .command("audit")
    .description("the newest changes that were asked for: who, what, when, with what result")
    .option("-n, --limit <count>", "at most so many", "100")
    .action(async (options: { limit: string }, command: Command) => {
      await (await actions()).audit(globalsOf(command), options.limit);
    });
}
