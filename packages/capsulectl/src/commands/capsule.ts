import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

import { addUpdateCommands } from "./update.ts";

const actions = () => import("./capsule-actions.ts");

export function addCapsuleCommands(program: Command): void {
  const capsule = program.command("capsule").description("the machine itself");
  capsule
    .command("info")
    .description("what it is, what runs it, what needs an eye")
    .action(async (_: object, command: Command) => (await actions()).info(globalsOf(command)));
  capsule
    .command("logs [services...]")
    .description("logs of its own services: init, containerd, capsuled, dnsmasq")
    .option("-f, --follow", "go on as they write")
    .option("-n, --tail <lines>", "only the last lines of each")
    .option("--since <time>", "only newer: a duration (10m) or a time (2026-01-31T12:00:00Z)")
    .action(async (services: string[], options: object, command: Command) => {
      await (await actions()).logs(globalsOf(command), services, options);
    });
  capsule
    .command("events")
    .description("what happened to the capsule itself: updates, keys that were reset, pools that fill")
    .option("-f, --follow", "go on as things happen")
    .option("-n, --limit <count>", "at most so many of the newest", "100")
    .option("--since <time>", "only newer: a duration (10m) or a time (2026-01-31T12:00:00Z)")
    .action(async (options: { limit: string; follow?: boolean; since?: string }, command: Command) =>
      (await import("./events-actions.ts")).capsuleEvents(globalsOf(command), options),
    );
  capsule
    .command("stats")
    .description("use of processor, memory, network and disk")
    .option("-f, --follow", "every two seconds")
    .action(async (options: { follow?: boolean }, command: Command) =>
      (await actions()).stats(globalsOf(command), options),
    );
  capsule
    .command("metrics")
    .description("what it tells in numbers, in the text format of Prometheus")
    .option("--listen <address:port>", "serve it at /metrics, on loopback only, until a signal comes")
    .action(async (options: { listen?: string }, command: Command) =>
      (await import("./metrics-actions.ts")).metrics(globalsOf(command), options),
    );
  capsule
    .command("hostname <name>")
    .description("set its host name")
    .action(async (name: string, _: object, command: Command) => (await actions()).hostname(globalsOf(command), name));
  capsule
    .command("repair")
    .description("repair a damaged /perm, when `capsule info` says that it is")
    .option("--dry-run", "only say what would be done")
    .option("--yes", "do not ask")
    .action(async (options: { dryRun?: boolean; yes?: boolean }, command: Command) =>
      (await actions()).repair(globalsOf(command), options),
    );
  capsule
    .command("support-bundle [file]")
    .description("collect into a tar.gz what somebody needs who is to help, without secrets (docs/operations.md)")
    .option("--workload-logs", "also the last lines that workloads wrote, whatever is in them")
    .option("--force", "replace a file that exists")
    .action(
      async (file: string | undefined, options: { workloadLogs?: boolean; force?: boolean }, command: Command) => {
        await (await import("./support-bundle-actions.ts")).supportBundle(globalsOf(command), file, options);
      },
    );
  capsule
    .command("debug [command...]")
    .description("a shell, or a command, with all rights on the machine itself and its own tools; needs no network")
    .option("--image <reference>", "an image with other tools, which is pulled when the capsule does not have it")
    .option("--keep", "in a container that stays for the next `debug --keep`")
    .option("--end", "end the container that is kept, and all that runs in it")
    .action(async (words: string[], options: { image?: string; keep?: boolean; end?: boolean }, command: Command) => {
      await (await import("./debug-actions.ts")).debug(globalsOf(command), words, options);
    });
  addUpdateCommands(capsule);
  for (const [verb, text] of [
    ["reboot", "stop the workloads in order and restart it"],
    ["shutdown", "stop the workloads in order and switch it off"],
  ] as const) {
    capsule
      .command(verb)
      .description(text)
      .option("--yes", "do not ask")
      .action(async (options: { yes?: boolean }, command: Command) =>
        (await actions()).goDown(verb, globalsOf(command), options),
      );
  }
  program
    .command("version")
    .description("versions of capsulectl and, if it answers, of the capsule")
    .action(async (_: object, command: Command) => (await actions()).version(globalsOf(command)));
}
