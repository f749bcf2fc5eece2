/**
 * Starts, finds and stops capsules in namespaces of this host. `make up`, `make down` and the acceptance tests use it.
 * What is true of a capsule is read from the kernel (its cgroups, its PID 1), the registry only adds names to it: so a
 * capsule can be cleaned up after anything was killed, the runner included.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, open, realpath, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildLayer } from "../layer.ts";
import { buildDir, repositoryRoot } from "../paths.ts";
import { buildRootfs } from "../rootfs.ts";
import { run } from "../run.ts";
import { delegateGroups, hostHierarchies, makeGroups, mountTable, processesOf, removeGroups } from "./cgroups.ts";
import { detachLoops, loopsOf } from "./loops.ts";
import * as network from "./network.ts";
import {
  isAlive,
  type RegistryEntry,
  readEntries,
  readEntry,
  registryDir,
  removeEntry,
  startTimeOf,
  withRunnerLock,
  writeEntry,
} from "./registry.ts";

export type StartOptions = {
  /** 1 to 30 of a-z, 0-9 and -. */
  name: string;
  /** Holds what persists (`perm/`) and the console log; by default build/state/NAME. */
  stateDir?: string;
  /** Port on 127.0.0.1 for the API; by default the first free from 50000 on. */
  port?: number;
};

/** A running capsule. */
export type Capsule = RegistryEntry & {
  /** Its `/perm`, as seen from the host. */
  readonly perm: string;
  /** Runs a command inside, in all of its namespaces, and returns its output. @throws {CommandError} when it fails. */
  exec(argv: readonly string[], input?: string): Promise<string>;
  /** Ordered shutdown, then removal of everything but the state directory. */
  stop(): Promise<void>;
  /** Everything in it dies at once, as in a power cut; `stop` or the next start removes what is left on the host. */
  kill(): Promise<void>;
};

/** The name is taken by a capsule that runs. */
export class AlreadyRunningError extends Error {
  override name = "AlreadyRunningError";
  readonly entry: RegistryEntry;
  constructor(entry: RegistryEntry) {
    super(
      entry.checkout === repositoryRoot
        ? `capsule "${entry.name}" is running on 127.0.0.1:${entry.port}`
        : `the name "${entry.name}" is taken by a capsule of ${entry.checkout}: give another NAME=, or stop it there`,
    );
    this.entry = entry;
  }
}

/**
 * Starts a capsule and returns once its PID 1 runs (not yet its services).
 * @throws {AlreadyRunningError} when one of that name runs.
 */
export async function startCapsule(options: StartOptions): Promise<Capsule> {
  const { name } = options;
  if (!/^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$/.test(name)) {
    throw new Error(`"${name}" is no name for a capsule: 1 to 30 of a-z, 0-9 and - are needed, no - at the ends`);
  }
  if (process.getuid?.() !== 0) throw new Error("a capsule in namespaces is started as root: run make as root");
  const rootfs = await buildRootfs();
  const layer = await buildLayer();
  const requestedState = resolve(options.stateDir ?? join(buildDir, "state", name));
  await mkdir(join(requestedState, "perm"), { recursive: true });
  const stateDir = await realpath(requestedState);

  const entry = await withRunnerLock(async () => {
    const old = await readEntry(name);
    if (old !== undefined && isAlive(old)) throw new AlreadyRunningError(old);
    await cleanUp(name); // what a killed runner or capsule of this name has left
    const others = (await readEntries()).filter(isAlive);
    const sharing = others.find((other) => other.stateDir === stateDir);
    if (sharing !== undefined)
      throw new Error(`${stateDir} is in use by the capsule "${sharing.name}": give another STATE=`);
    const port = await network.choosePort(options.port, others);
    const prefix = await network.ensureBridge();
    const address = network.chooseAddress(name, prefix, others);
    try {
      const initPid = await enter({ name, rootfs, layer, stateDir, address, port });
      const initStartTime = startTimeOf(initPid);
      if (initStartTime === undefined)
        throw new Error(`capsule "${name}" ended at once: see ${join(stateDir, "console.log")}`);
      const made = { name, initPid, initStartTime, address, port, stateDir, rootfs, layer, checkout: repositoryRoot };
      await writeEntry(made);
      return made;
    } catch (error) {
      await cleanUp(name);
      throw error;
    }
  });
  return capsuleOf(entry);
}

/** The capsule of that name, if it runs. */
export async function findCapsule(name: string): Promise<Capsule | undefined> {
  const entry = await readEntry(name);
  return entry !== undefined && isAlive(entry) ? capsuleOf(entry) : undefined;
}

function capsuleOf(entry: RegistryEntry): Capsule {
  return {
    ...entry,
    perm: join(entry.stateDir, "perm"),
    exec: async (argv, input) =>
      await run(
        ["nsenter", "-t", String(entry.initPid), "-m", "-u", "-i", "-n", "-p", "-C", "--", ...argv],
        input === undefined ? {} : { input },
      ),
    stop: async () => void (await stopCapsule(entry.name)),
    kill: async () => {
      signal(entry, "SIGKILL");
      await waitUntilDead(entry, 10_000);
      // Those outside of its namespaces that waited for its PID 1 end a moment later.
      const deadline = Date.now() + 10_000;
      while ((await processesOf(entry.name)).length > 0 && Date.now() < deadline) await sleep(10);
    },
  };
}

type Entering = { name: string; rootfs: string; layer: string; stateDir: string; address: string; port: number };

/** Makes the namespaces and starts PID 1 in them; returns its host pid. */
async function enter(capsule: Entering): Promise<number> {
  const { name, stateDir, address } = capsule;
  const resolver = network.resolverFor(address.replace(/\d+$/, "1"));
  await makeGroups(name);
  const base = join(registryDir, name);
  await mkdir(base, { recursive: true });
  const consoleLog = await open(join(stateDir, "console.log"), "a", 0o600);
  const script = join(import.meta.dirname, "enter.sh");
  // Detached: it must outlive this process and its terminal.
  const launcher = spawn("/bin/sh", [script, "join", name, capsule.rootfs, capsule.layer, stateDir, base], {
    detached: true,
    cwd: "/",
    stdio: ["pipe", "pipe", consoleLog.fd],
    env: {
      PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
      CAPSULE_CGROUP_MOUNTS: mountTable(hostHierarchies()),
      CAPSULE_RESOLV_CONF: resolver.text,
    },
  });
  const { stdin, stdout } = launcher;
  if (stdin === null || stdout === null) throw new Error("the pipes to the first process were not made");
  try {
    await new Promise<void>((done, failed) => {
      const say = (cause: unknown) =>
        failed(new Error(`capsule "${name}" did not start (${cause}): see ${join(stateDir, "console.log")}`));
      launcher.once("error", say);
      launcher.once("exit", (code) => say(`exit code ${code}`));
      stdout.once("data", () => done());
    });
    const initPid = childOf(launcher.pid ?? 0);
    await delegateGroups(name);
    await network.connect(name, initPid, address);
    await network.loadRules(network.hostRules(name, address, capsule.port, resolver.forwardTo));
    stdin.on("error", () => {}); // it has ended; noticed below
    stdin.end("go\n");
    await untilInit(initPid, name, stateDir);
    return initPid;
  } finally {
    await consoleLog.close();
    stdin.destroy();
    stdout.destroy();
    launcher.unref();
  }
}

/** The only child of `unshare --fork`: PID 1 of the new namespace. */
function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  const child = Number(children.split(" ")[0]);
  if (!Number.isInteger(child) || child <= 0) throw new Error("the capsule's first process ended before it was found");
  return child;
}

/** Waits until the script has become capsule-init. */
async function untilInit(pid: number, name: string, stateDir: string): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    if (startTimeOf(pid) === undefined) break;
    if (readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "capsule-init") return;
    await sleep(10);
  }
  throw new Error(`capsule "${name}" did not reach capsule-init: see ${join(stateDir, "console.log")}`);
}

function signal(entry: RegistryEntry, name: NodeJS.Signals): void {
  if (!isAlive(entry)) return;
  process.kill(entry.initPid, name);
}

async function waitUntilDead(entry: RegistryEntry, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (isAlive(entry)) {
    if (Date.now() > deadline) return false;
    await sleep(25);
  }
  return true;
}

export type StopOptions = {
  /** For the ordered shutdown, before everything is killed. Default 60 s. */
  timeoutMs?: number;
  /** Told what happens, one line at a time. */
  onProgress?: (line: string) => void;
};

/**
 * Stops a capsule in order and removes everything of it but its state directory. May be called in any state, twice too.
 * @throws {Error} listing what could not be removed.
 */
export async function stopCapsule(
  name: string,
  { timeoutMs = 60_000, onProgress = () => {} }: StopOptions = {},
): Promise<boolean> {
  const entry = await readEntry(name);
  const alive = entry !== undefined && isAlive(entry);
  if (alive) {
    onProgress("stopping workloads and services");
    signal(entry, "SIGTERM");
    if (!(await waitUntilDead(entry, timeoutMs))) onProgress(`still running after ${timeoutMs / 1000} s, killing it`);
  }
  await withRunnerLock(async () => {
    await cleanUp(name);
    await network.removeBridgeIfUnused();
  });
  const left = await leftovers(name, entry?.stateDir);
  if (left.length > 0) throw new Error(`of the capsule "${name}" these are left: ${left.join(", ")}`);
  return alive;
}

/** Removes everything a capsule of that name may have left on the host, its processes first. Needs the runner's lock. */
async function cleanUp(name: string): Promise<void> {
  const entry = await readEntry(name);
  if (entry !== undefined) signal(entry, "SIGKILL"); // with PID 1 the kernel ends all others of the namespace
  const deadline = Date.now() + 10_000;
  for (let pids = await processesOf(name); pids.length > 0 && Date.now() < deadline; pids = await processesOf(name)) {
    for (const pid of pids) {
      try {
        if (pid > 0) process.kill(pid, "SIGKILL");
      } catch {
        // gone in the meantime
      }
    }
    await sleep(20);
  }
  await removeGroups(name);
  await network.disconnect(name);
  if (entry !== undefined) await detachLoops(entry.stateDir);
  await rm(join(registryDir, name), { recursive: true, force: true });
  await removeEntry(name);
}

/** What is still there of a capsule that was stopped: processes, groups, link, rules, mounts, loop devices. */
export async function leftovers(name: string, stateDir?: string): Promise<string[]> {
  const left = (await processesOf(name)).map((pid) => `process ${pid}`);
  for (const { mountPoint } of hostHierarchies()) {
    if (existsSync(join(mountPoint, `capsule-${name}`))) left.push(join(mountPoint, `capsule-${name}`));
  }
  if (existsSync(`/sys/class/net/${network.hostLink(name)}`)) left.push(`link ${network.hostLink(name)}`);
  if ((await run(["nft", "list", "tables"])).split("\n").includes(`table ip ${network.tableName(name)}`))
    left.push(`nft table ${network.tableName(name)}`);
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  left.push(
    ...mounts
      .filter((line) => line.includes(` ${join(registryDir, name)}`))
      .map((line) => `mount ${line.split(" ")[4]}`),
  );
  if (stateDir !== undefined) left.push(...(await loopsOf(stateDir)));
  return left;
}
