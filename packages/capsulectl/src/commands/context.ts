import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

export function addContextCommands(program: Command): void {
  program
    .command("adopt <host>")
    .description(
      "get to know a capsule, by its address or its short id: pin its fingerprint and, while it is new, enrol your key as its first",
    )
    .option("--name <name>", "name of the context (default: the capsule's host name)")
    .option("--fingerprint <sha256>", "the fingerprint that it must have, as on its console; asks nothing then")
    .option("--yes", "accept whatever fingerprint it has")
    .option("--key-name <name>", "how your key is listed on the capsule (default: user@host)")
    .action(async (host: string, options: { name?: string; fingerprint?: string; yes?: boolean; keyName?: string }) => {
      const { adopt } = await import("./context-actions.ts");
      await adopt(host, options);
    });

  const context = program.command("context").description("the capsules that you know");
  context
    .command("list")
    .description("list them; * is the current one")
    .action(async (_, command: Command) => {
      const { listContexts } = await import("./context-actions.ts");
      await listContexts(globalsOf(command));
    });
  context
    .command("use <name>")
    .description("make one the current one")
    .action(async (name: string) => {
      const { useContext } = await import("./context-actions.ts");
      await useContext(name);
    });
  context
    .command("remove <name>")
    .description("forget one; your key stays enrolled on it")
    .action(async (name: string) => {
      const { removeContext } = await import("./context-actions.ts");
      await removeContext(name);
    });
}
