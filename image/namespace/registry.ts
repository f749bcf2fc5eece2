import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Where the runner keeps what it knows of running capsules; a tmpfs on most hosts, so it goes with a reboot. */
export const registryDir = "/run/capsule-runner";

/** One capsule that was started on this host. */
export type RegistryEntry = {
  readonly name: string;
  /** Host pid of PID 1 of the capsule, and its start time in clock ticks: together they name one process for ever. */
  readonly initPid: number;
  readonly initStartTime: string;
  readonly address: string;
  /** Port on 127.0.0.1 of this host that leads to the API. */
  readonly port: number;
  readonly stateDir: string;
  readonly rootfs: string;
  readonly layer: string;
  /** Checkout that started it: another one may not take the name over. */
  readonly checkout: string;
};

/** Runs `body` while no other runner on this host changes the registry or the network. The lock dies with the process. */
export async function withRunnerLock<T>(body: () => Promise<T>): Promise<T> {
  await mkdir(registryDir, { recursive: true, mode: 0o755 });
  // flock(1) holds the lock as long as its input is open, so that a runner that is killed frees it.
  const holder = spawn("flock", [join(registryDir, "lock"), "sh", "-c", "echo locked; exec cat"], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  await new Promise<void>((resolve, reject) => {
    holder.once("error", reject);
    holder.once("exit", (code) => reject(new Error(`flock ended with ${code} before it had the runner's lock`)));
    holder.stdout.once("data", () => resolve());
  });
  try {
    return await body();
  } finally {
    holder.stdin.end();
  }
}

/** The entry of a capsule, whether it still runs or not. */
export async function readEntry(name: string): Promise<RegistryEntry | undefined> {
  const text = await readFile(join(registryDir, `${name}.json`), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  return text === undefined ? undefined : (JSON.parse(text) as RegistryEntry);
}

/** All entries, of running capsules and of ones that died. */
export async function readEntries(): Promise<RegistryEntry[]> {
  const files = await readdir(registryDir).catch(() => []);
  const names = files.filter((file) => file.endsWith(".json")).map((file) => file.slice(0, -".json".length));
  const entries = await Promise.all(names.map(readEntry));
  return entries.filter((entry) => entry !== undefined);
}

export async function writeEntry(entry: RegistryEntry): Promise<void> {
  const path = join(registryDir, `${entry.name}.json`);
  await writeFile(`${path}.new`, `${JSON.stringify(entry, null, 2)}\n`);
  await rename(`${path}.new`, path);
}

export async function removeEntry(name: string): Promise<void> {
  await rm(join(registryDir, `${name}.json`), { force: true });
}

/** Whether the capsule's PID 1 is the very process that was started, not another that got its number later. */
export function isAlive(entry: RegistryEntry): boolean {
  return startTimeOf(entry.initPid) === entry.initStartTime;
}

/** Start time of a process in clock ticks since boot (field 22 of proc_pid_stat(5)); undefined when gone or a zombie. */
export function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
