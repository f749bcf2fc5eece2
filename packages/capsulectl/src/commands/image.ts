import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./image-actions.ts");

export function addImageCommands(program: Command): void {
  const image = program.command("image").description("images on the capsule");
  image
    .command("list")
    .description("list them with the workloads that use them")
    .action(async (_: object, command: Command) => (await actions()).list(globalsOf(command)));
  image
    .command("push <file>")
    .description("send an image archive (docker save or OCI layout; - for stdin)")
    .option("--name <reference>", "give the archive's only image this name")
    .action(async (file: string, options: { name?: string }, command: Command) => {
      await (await actions()).push(globalsOf(command), file, options);
    });
  image
    .command("pull <reference>")
    .description("fetch an image from its registry")
    .option("--username <name>", "for this pull only; the password is read from stdin")
    .action(async (reference: string, options: { username?: string }, command: Command) => {
      await (await actions()).pull(globalsOf(command), reference, options);
    });
  image
    .command("remove <references...>")
    .description("remove images by name or digest; refused while a workload uses one")
    .action(async (references: string[], _: object, command: Command) => {
      await (await actions()).remove(globalsOf(command), references);
    });
  image
    .command("prune")
    .description("remove the images that no workload uses")
    .option("--older-than <duration>", "only those that came longer ago")
    .option("--dry-run", "only tell which")
    .action(async (options: { olderThan?: string; dryRun?: boolean }, command: Command) => {
      await (await actions()).prune(globalsOf(command), options);
    });

  const registry = program.command("registry").description("credentials and mirrors of registries");
  registry
    .command("list")
    .description("list what is set; passwords are never shown")
    .action(async (_: object, command: Command) => (await actions()).listRegistries(globalsOf(command)));
  registry
    .command("set <host>")
    .description("set how a registry is reached; replaces all but the password")
    .option("--username <name>", "who to log in as")
    .option("--password-stdin", "read the password from stdin")
    .option("--mirror <url...>", "ask these first, in this order; may be repeated")
    .option("--plain-http", "speak HTTP without TLS: only on a network that you trust")
    .option("--ca <file>", "PEM of the authority that signed its certificate")
    .action(async (host: string, options: object, command: Command) => {
      await (await actions()).setRegistry(globalsOf(command), host, options);
    });
  registry
    .command("remove <host>")
    .description("forget what is set for a registry")
    .action(async (host: string, _: object, command: Command) => {
      await (await actions()).removeRegistry(globalsOf(command), host);
    });
}
