import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./workload-actions.ts");

export function addWorkloadCommands(program: Command): void {
  const workload = program
    .command("workload")
    .alias("wl")
    .description("containers and what they do")
    .enablePositionalOptions();
  workload
    .command("list [names...]")
    .description("list workloads with phase and message")
    .option("-l, --label <key=value...>", "only those with this label; may be repeated")
    .option("-w, --watch", "tell each change as it happens")
    .action(async (names: string[], options: { label?: string[]; watch?: boolean }, command: Command) => {
      await (await actions()).list(globalsOf(command), names, options);
    });
  workload
    .command("get <name>")
    .description("one workload, whole (as YAML unless -o says otherwise)")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).get(globalsOf(command), name);
    });
  workload
    .command("describe <name>")
    .description("one workload for people: what is wanted, what is, what happened")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).describe(globalsOf(command), name);
    });
  workload
    .command("delete <names...>")
    .description("delete workloads and wait until they are gone")
    .option("--no-wait", "do not wait")
    .action(async (names: string[], options: { wait: boolean }, command: Command) => {
      await (await actions()).remove(globalsOf(command), names, options);
    });
  for (const [verb, text] of [
    ["start", "start a workload that is stopped, or that has ended"],
    ["stop", "stop a workload; it stays stopped until it is started"],
    ["restart", "stop and start a workload; with its image's new version if that was pushed or pulled"],
    ["pause", "stand a running workload still, with all that it has in memory"],
    ["resume", "let a paused workload go on"],
  ] as const) {
    workload
      .command(`${verb} <name>`)
      .description(text)
      .option("--wait [duration]", "wait until it is done, at most so long (default 5m)")
      .action(async (name: string, options: { wait?: string | true }, command: Command) => {
        await (await actions()).lifecycle(verb, globalsOf(command), name, options);
      });
  }
  workload
    .command("logs <name>")
    .description("what a workload wrote")
    .option("-f, --follow", "go on as it writes")
    .option("-n, --tail <lines>", "only the last lines")
    .option("--since <time>", "only newer: a duration (10m) or a time (2026-01-31T12:00:00Z)")
    .option("-t, --timestamps", "begin each line with its time")
    .option("--stdout", "only its standard output")
    .option("--stderr", "only its standard error")
    .option("--serial", "the console of a microVM instead: its kernel, and its virtual machine monitor")
    .action(async (name: string, options: object, command: Command) => {
      await (await import("./logs-actions.ts")).logs(globalsOf(command), name, options);
    });
  workload
    .command("exec <name> [command...]")
    .description("run a command in a workload; exits with its exit code")
    .option("-i, --stdin", "pass standard input on")
    .option("-t, --tty", "give it a terminal (implies -i)")
    .option("-e, --env <name=value...>", "set a variable")
    .option("-w, --workdir <path>", "run it there")
    .option("-u, --user <user>", "run it as this user")
    .option("--privileged", "with all capabilities")
    .passThroughOptions()
    .action(async (name: string, words: string[], options: object, command: Command) => {
      await (await import("./exec-actions.ts")).exec(globalsOf(command), name, words, options);
    });
  workload
    .command("events [name]")
    .description("what happened to a workload, or to all")
    .option("-f, --follow", "go on as things happen")
    .option("-n, --limit <count>", "at most so many of the newest", "100")
    .option("--since <time>", "only newer: a duration (10m) or a time (2026-01-31T12:00:00Z)")
    .action(async (name: string | undefined, options: object, command: Command) => {
      await (await actions()).events(
        globalsOf(command),
        name,
        options as Parameters<Awaited<ReturnType<typeof actions>>["events"]>[2],
      );
    });
  workload
    .command("stats [names...]")
    .description("use of processor, memory, network and disk")
    .option("-f, --follow", "every two seconds")
    .action(async (names: string[], options: { follow?: boolean }, command: Command) => {
      await (await actions()).stats(globalsOf(command), names, options);
    });
}
