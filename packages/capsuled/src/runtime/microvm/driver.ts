/**
 * MicroVMs by a virtual machine monitor. A workload is a record (record.ts), a root disk that shares the blocks of its
 * image's base, and, while it runs, jailed programs with a directory below /run/capsule/vm. Each method may be cut between
 * any two calls: the record is written first and removed last, and what is left is found by it the next time.
 */
import { EventEmitter } from "node:events";
import { mkdir, readdir, rm } from "node:fs/promises";
import type { Readable } from "node:stream";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import { consoleLog } from "../../logs/places.ts";
import { capabilitiesOf } from "../container/capabilities.ts";
import { readStats } from "../container/cgroups.ts";
import type { ImageConfigs } from "../container/image-config.ts";
import { signalNumber } from "../container/signals.ts";
import { environment } from "../container/spec.ts";
import {
  type ExecOptions,
  type ExecSession,
  type InstanceLink,
  isPaused,
  type Observed,
  type PathStat,
  type RuntimeDriver,
  type RuntimeStats,
  type StopOptions,
  type TaskState,
} from "../driver.ts";
import type { Instance, MachineOptions } from "../instance.ts";
import type { AcceleratorProbe } from "./accelerator.ts";
import type { Agent } from "./agent.ts";
import { type BackendName, type MicroVmBackend, monitor } from "./backends/backend.ts";
import { removeGroups } from "./cgroups.ts";
import { copyIntoGuest, copyOutOfGuest, statGuestPath } from "./copy.ts";
import { startGuestExec } from "./exec.ts";
import { whileFrozen } from "./freeze.ts";
import { jailed, type RunningProgram, signalJailed } from "./jail.ts";
import { runPaths, vmsDir } from "./layout.ts";
import { Machine, readEnd, readStarted } from "./machine.ts";
import { type MachineRecord, MachineRecords } from "./record.ts";
import type { RootDisks } from "./root-disks.ts";
import { lookedUpInside } from "./spec.ts";
import { startMachine } from "./start.ts";

export interface MicroVmDriverOptions {
  /** Those that this image has. */
  readonly backends: Readonly<Partial<Record<BackendName, MicroVmBackend>>>;
  readonly configs: ImageConfigs;
  readonly roots: RootDisks;
  readonly accelerator: AcceleratorProbe;
  readonly workloadsDir: string;
  readonly log: Logger;
}

const titles: Readonly<Record<BackendName, string>> = { qemu: "QEMU", firecracker: "Firecracker" };

export class MicroVmDriver implements RuntimeDriver {
  readonly #options: MicroVmDriverOptions;
  readonly #records: MachineRecords;
  readonly #machines = new Map<string, Machine>();
  readonly #changes = new EventEmitter<{ change: [string] }>();

  constructor(options: MicroVmDriverOptions) {
    this.#options = options;
    this.#records = new MachineRecords(options.workloadsDir);
  }

  /** Whether it has anything of the workload. */
  has(uid: string): boolean {
    return this.#records.has(uid);
  }

  /** Why a backend cannot be used on this capsule; undefined when it can. */
  unavailable(name: BackendName): string | undefined {
    const backend = this.#options.backends[name];
    return backend === undefined ? `the image of this capsule is without ${titles[name]}` : backend.unavailable();
  }

  /** Takes over what runs, and clears away what no record knows. Once, before anything else. */
  async adopt(): Promise<void> {
    await mkdir(vmsDir, { recursive: true, mode: 0o755 });
    for (const uid of await readdir(vmsDir)) {
      const record = await this.#records.get(uid);
      if (record === undefined) await this.#clear(uid);
      else await this.#adopt(record);
    }
  }

  async list(): Promise<readonly Observed[]> {
    return await Promise.all((await this.#records.list()).map((record) => this.#observed(record)));
  }

  async observe(uid: string): Promise<Observed | undefined> {
    const record = await this.#records.get(uid);
    return record === undefined ? undefined : await this.#observed(record);
  }

  async start(instance: Instance, link: InstanceLink, signal: AbortSignal): Promise<void> {
    const { uid, machine } = instance;
    if (machine === undefined) throw new CapsuleError("internal", `${instance.name} is no microVM`);
    const before = await this.#records.get(uid);
    const seen = before === undefined ? undefined : await this.#observed(before);
    if (seen?.task.state === "running" && seen.generation === instance.generation) return;
    await this.#clear(uid);
    const isNew = before?.generation !== instance.generation;
    if (before !== undefined && isNew && !machine.persistentRoot) await this.#options.roots.removeRoot(uid);
    try {
      await this.#boot(instance, machine, link, signal);
    } catch (error) {
      await this.#clear(uid);
      // It has never run: nothing in it is worth keeping, and the next try may be another machine.
      if (isNew) await this.#forget(uid, machine.persistentRoot);
      if (signal.aborted)
        throw new CapsuleError("timeout", `it was given up: ${String(signal.reason)}`, { cause: error });
      throw error;
    }
  }

  async stop(uid: string, { timeoutMs, stopSignal }: StopOptions): Promise<void> {
    const record = await this.#records.get(uid);
    if (record === undefined) return;
    const machine = this.#machines.get(uid);
    if (machine !== undefined) await this.resume(uid);
    if (machine === undefined) {
      // No payload was ever started in it: there is nothing to end in order.
      if ((await this.#monitorOf(uid)) !== undefined) await this.#clear(uid);
      return;
    }
    await machine.stop(signalNumber(stopSignal ?? record.stopSignal ?? "SIGTERM"), timeoutMs);
  }

  async pause(uid: string): Promise<void> {
    await this.#running(uid);
    await signalJailed(runPaths(uid).dir, "SIGSTOP");
  }

  async resume(uid: string): Promise<void> {
    if ((await this.#monitorOf(uid))?.isStill !== true) return;
    await signalJailed(runPaths(uid).dir, "SIGCONT");
    await this.#machines.get(uid)?.setClock();
  }

  async remove(uid: string): Promise<void> {
    const record = await this.#records.get(uid);
    if (record === undefined) return;
    await this.#clear(uid);
    await this.#forget(uid, record.persistentRoot);
  }

  onChange(listener: (uid: string) => void): void {
    this.#changes.on("change", listener);
  }

  async exec(uid: string, options: ExecOptions): Promise<ExecSession> {
    const record = await this.#withAgent(uid);
    const config = await this.#options.configs.get(record.imageDigest);
    const base = {
      env: environment(config.env, new Map(record.env), lookedUpInside),
      cwd: record.workingDir ?? (config.workingDir === "" ? "/" : config.workingDir),
      capabilities: capabilitiesOf({ addCapabilities: [], dropCapabilities: [], privileged: false }),
    };
    return await startGuestExec(this.#agentOf(uid), base, options);
  }

  async statPath(uid: string, path: string): Promise<PathStat | undefined> {
    await this.#withAgent(uid);
    return await statGuestPath(this.#agentOf(uid), path);
  }

  async copyOut(uid: string, path: string, signal: AbortSignal): Promise<Readable> {
    await this.#withAgent(uid);
    return copyOutOfGuest(this.#agentOf(uid), path, signal);
  }

  async copyIn(
    uid: string,
    path: string,
    { rename }: { readonly rename: string | undefined },
    data: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ bytes: bigint; entries: bigint }> {
    await this.#withAgent(uid);
    return await copyIntoGuest(this.#agentOf(uid), path, rename, data, signal);
  }

  /** Processor, disk and network as the capsule sees them; memory and processes as the payload does. */
  async stats(uid: string): Promise<RuntimeStats | undefined> {
    const program = await this.#monitorOf(uid);
    if (program === undefined) return undefined;
    const outside = await readStats(uid, program.pid);
    const inside = await this.#machines
      .get(uid)
      ?.askAgent((client) => client.payloadStats({}, { timeoutMs: 2_000 }))
      .catch(() => undefined);
    return inside === undefined ? outside : { ...outside, pids: inside.pids };
  }

  /** Calls `work` while the guest's filesystem on a volume is at rest; throws `unavailable` when it cannot be brought to it. */
  async withFrozen<T>(uid: string, volumeUid: string, work: () => Promise<T>): Promise<T> {
    const record = await this.#running(uid);
    if (record.ownKernel) return await this.#whileStill(uid, work);
    const volume = record.volumes.findIndex((one) => one.uid === volumeUid);
    return await whileFrozen(this.#agentOf(uid), volume, work);
  }

  /** As a power cut would find its disks: what its kernel still holds is not on them. */
  async #whileStill<T>(uid: string, work: () => Promise<T>): Promise<T> {
    await this.pause(uid);
    try {
      return await work();
    } finally {
      await this.resume(uid);
    }
  }

  /** Leaves everything running. */
  close(): void {
    for (const machine of this.#machines.values()) machine.detach();
    this.#machines.clear();
  }

  async #boot(instance: Instance, machine: MachineOptions, link: InstanceLink, signal: AbortSignal): Promise<void> {
    const backend = this.#backend(machine.backend);
    const agent = await startMachine(
      { ...this.#options, backend, records: this.#records },
      { instance, machine, link, signal },
    );
    const { uid, logs } = instance;
    await this.#attach({ uid, logs, backend: machine.backend, ownKernel: machine.ownKernel !== undefined }, agent);
  }

  /** A machine of an earlier capsuled: taken over when its payload was started, ended when it was not. */
  async #adopt(record: MachineRecord): Promise<void> {
    const { uid } = record;
    const paths = runPaths(uid);
    const runs = (await this.#monitorOf(uid)) !== undefined;
    const wasStarted = (await readStarted(paths)) !== undefined;
    const isOver = !runs && (!wasStarted || (await readEnd(paths)) !== undefined);
    if (isOver) return await removeGroups(uid);
    // Its start was cut before its payload was started: the next one begins anew.
    if (!wasStarted) return await this.#clear(uid);
    await this.#attach(record, undefined);
    // It ended while no capsuled was there: how, is noted before anybody asks.
    if (!runs) await this.#machines.get(uid)?.gone;
  }

  async #attach(
    { uid, logs, backend, ownKernel }: Pick<MachineRecord, "uid" | "logs" | "backend" | "ownKernel">,
    agent: Agent | undefined,
  ): Promise<void> {
    const paths = runPaths(uid);
    const machine = new Machine({
      uid,
      paths,
      console: consoleLog(this.#options.workloadsDir, uid),
      logs,
      log: this.#options.log,
      agentPort: this.#options.backends[backend]?.agentPort,
      pressPowerButton: ownKernel ? async () => await this.#backend(backend).pressPowerButton(paths) : undefined,
      onChange: () => this.#changes.emit("change", uid),
    });
    this.#machines.set(uid, machine);
    machine.attach(agent);
    void machine.gone.then(() => {
      if (this.#machines.get(uid) === machine) this.#machines.delete(uid);
    });
  }

  /** Ends what runs of it, by force, and removes what one run leaves. The record and the root disk stay. */
  async #clear(uid: string): Promise<void> {
    const paths = runPaths(uid);
    this.#machines.get(uid)?.detach();
    this.#machines.delete(uid);
    await signalJailed(paths.dir, "SIGKILL");
    await removeGroups(uid);
    await rm(paths.dir, { recursive: true, force: true });
  }

  async #forget(uid: string, persistentRoot: boolean): Promise<void> {
    if (!persistentRoot) await this.#options.roots.removeRoot(uid);
    await this.#records.remove(uid);
  }

  async #observed(record: MachineRecord): Promise<Observed> {
    const { uid, name, generation, imageDigest, volumes } = record;
    const task = await this.#taskOf(record);
    const runs = task.state !== "none" && task.state !== "stopped";
    return { uid, name, generation, imageDigest, task, ...(runs ? { attached: volumes } : {}) };
  }

  async #taskOf({ uid }: MachineRecord): Promise<TaskState> {
    const paths = runPaths(uid);
    const [program, startedAt, end] = await Promise.all([this.#monitorOf(uid), readStarted(paths), readEnd(paths)]);
    if (program !== undefined) {
      const { pid, isStill } = program;
      if (startedAt === undefined) return { state: "created", pid };
      return { state: isStill ? "paused" : "running", pid, startedAt };
    }
    if (end === undefined) return { state: "none" };
    const { exitCode, finishedAt, outOfMemory, reason } = end;
    return {
      state: "stopped",
      exitCode,
      finishedAt: new Date(finishedAt),
      outOfMemory,
      ...(reason === undefined ? {} : { reason }),
    };
  }

  #backend(name: BackendName): MicroVmBackend {
    const backend = this.#options.backends[name];
    const missing = this.unavailable(name);
    if (backend !== undefined && missing === undefined) return backend;
    throw new CapsuleError("precondition", `${missing}.`, { reason: "NO_BACKEND" });
  }

  async #monitorOf(uid: string): Promise<RunningProgram | undefined> {
    return await jailed(runPaths(uid).dir, monitor);
  }

  async #running(uid: string): Promise<MachineRecord> {
    const record = await this.#records.get(uid);
    const task = record === undefined ? undefined : await this.#taskOf(record);
    if (record !== undefined && task?.state === "running") return record;
    if (task?.state === "paused") throw isPaused();
    throw notRunning();
  }

  /** Throws `precondition` for a machine that has no agent. */
  async #withAgent(uid: string): Promise<MachineRecord> {
    const record = await this.#running(uid);
    if (!record.ownKernel) return record;
    const message =
      "The workload boots its own kernel: there is no agent of Capsule in it. Its network, and `capsulectl workload logs`, are the ways in.";
    throw new CapsuleError("precondition", message, { reason: "NO_AGENT" });
  }

  #agentOf(uid: string): Agent {
    const machine = this.#machines.get(uid);
    if (machine === undefined) throw notRunning();
    return machine.agent;
  }
}

function notRunning(): CapsuleError {
  return new CapsuleError("precondition", "The workload does not run. Start it first.", { reason: "NOT_RUNNING" });
}
