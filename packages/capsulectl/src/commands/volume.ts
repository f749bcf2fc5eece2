import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./volume-actions.ts");
const transferActions = () => import("./transfer-actions.ts");
const snapshotActions = () => import("./snapshot-actions.ts");

export function addVolumeCommands(program: Command): void {
  const volume = program
    .command("volume")
    .alias("vol")
    .description("filesystems that outlive the workloads that mount them")
    .enablePositionalOptions();
  volume
    .command("create <name>")
    .description("make a volume and wait until it is there; manifests make them too (kind: Volume)")
    .requiredOption("--size <size>", "such as 2GiB; it can grow and not shrink")
    .option("-l, --label <key=value...>", "may be repeated")
    .option("--pool <name>", "the pool to make it in (default: the default pool)")
    .option("--snapshots <schedule>", "take snapshots by itself: hourly, daily or weekly")
    .option("--keep <number>", "how many snapshots of the schedule are kept (default: 5)")
    .option("--owner <uid[:gid]>", "owner of its top directory (default: root)")
    .option("--no-wait", "do not wait")
    .action(async (name: string, options: object, command: Command) => {
      await (await actions()).create(
        globalsOf(command),
        name,
        options as Parameters<Awaited<ReturnType<typeof actions>>["create"]>[2],
      );
    });
  volume
    .command("list [names...]")
    .description("list volumes with phase, size and who mounts them")
    .option("-l, --label <key=value...>", "only those with this label; may be repeated")
    .action(async (names: string[], options: { label?: string[] }, command: Command) => {
      await (await actions()).list(globalsOf(command), names, options);
    });
  volume
    .command("get <name>")
    .description("one volume, whole (as YAML unless -o says otherwise)")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).get(globalsOf(command), name);
    });
  volume
    .command("resize <name> <size>")
    .description("let a volume grow, also while it is mounted")
    .option("--no-wait", "do not wait")
    .action(async (name: string, size: string, options: { wait: boolean }, command: Command) => {
      await (await actions()).resize(globalsOf(command), name, size, options);
    });
  volume
    .command("delete <names...>")
    .description("delete volumes with all that they hold; refused while a workload mounts one")
    .option("--force", "stop the workloads that mount them first, and leave them stopped")
    .option("--snapshots", "delete their snapshots too; refused without when there are any")
    .option("--no-wait", "do not wait until they are gone")
    .action(
      async (names: string[], options: { force?: boolean; snapshots?: boolean; wait: boolean }, command: Command) => {
        await (await actions()).remove(globalsOf(command), names, options);
      },
    );
  volume
    .command("snapshot <name> [snapshot]")
    .description("keep what a volume holds now, under a name or the time; at once, also while it is used")
    .action(async (name: string, snapshot: string | undefined, _: object, command: Command) => {
      await (await snapshotActions()).take(globalsOf(command), name, snapshot);
    });
  volume
    .command("snapshots <name>")
    .description("list the snapshots of a volume, with what each has alone")
    .action(async (name: string, _: object, command: Command) => {
      await (await snapshotActions()).list(globalsOf(command), name);
    });
  volume
    .command("delete-snapshot <name> <snapshots...>")
    .description("delete snapshots of a volume")
    .action(async (name: string, snapshots: string[], _: object, command: Command) => {
      await (await snapshotActions()).remove(globalsOf(command), name, snapshots);
    });
  volume
    .command("restore <name> <snapshot>")
    .description("give a volume back what a snapshot holds; what it held until then becomes a snapshot")
    .option("--as <volume>", "make a new volume of it and leave this one alone")
    .option("--stop", "stop the workloads that run with it first, and start them again afterwards")
    .action(async (name: string, snapshot: string, options: { as?: string; stop?: boolean }, command: Command) => {
      await (await snapshotActions()).restore(globalsOf(command), name, snapshot, options);
    });
  volume
    .command("schedule <name> <schedule>")
    .description("take snapshots by itself: hourly, daily, weekly, or none")
    .option("--keep <number>", "how many of them are kept (default: 5)")
    .action(async (name: string, schedule: string, options: { keep?: string }, command: Command) => {
      await (await snapshotActions()).schedule(globalsOf(command), name, schedule, options);
    });
  volume
    .command("export <name> <file>")
    .description("write a volume to a file (- for stdout), packed by zstd, while its workload runs on")
    .option("--snapshot <snapshot>", "a snapshot of it instead of what it holds now")
    .action(async (name: string, file: string, options: { snapshot?: string }, command: Command) => {
      await (await transferActions()).exportVolume(globalsOf(command), name, file, options);
    });
  volume
    .command("import <name> <file>")
    .description("make a volume of an exported file (- for stdin); it is there when all of it has come and is right")
    .option("--size <size>", "a larger size than it had")
    .option("--pool <name>", "the pool to make it in (default: the default pool)")
    .action(async (name: string, file: string, options: { size?: string; pool?: string }, command: Command) => {
      await (await transferActions()).importVolume(globalsOf(command), name, file, options);
    });
  volume
    .command("mount <name> [command...]")
    .description(
      "a shell, or a command, with the volume at /mnt and the capsule's own tools, while no workload uses it",
    )
    .option("--read-only", "let nothing be changed")
    .action(async (name: string, words: string[], options: { readOnly?: boolean }, command: Command) => {
      await (await import("./exec-actions.ts")).shell(globalsOf(command), name, words, options);
    });
  volume
    .command("check <name>")
    .description("tell what e2fsck finds in a volume, used or not; changes nothing, ends with 1 when it is damaged")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).check(globalsOf(command), name);
    });
  volume
    .command("repair <name>")
    .description("let e2fsck repair a volume that nobody uses; what it held before is kept as a snapshot")
    .action(async (name: string, _: object, command: Command) => {
      await (await actions()).repair(globalsOf(command), name);
    });
}
