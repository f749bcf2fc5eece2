/**
 * Brings every workload to what is wanted of it, and keeps it there. Level-triggered: each pass looks at the store and at
 * the runtime, plans one step, carries it out and looks again. Events of the store and of the runtime make it look soon,
 * a slow resync makes it look at last.
 *
 * Invariants: a workload is changed only inside its own pass, one pass at a time; a step may be cut at any point and the
 * next pass goes on from what is there; no pass waits for a pull.
 */
import { equals } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { EventType, WorkloadStatusSchema } from "@capsule/api";
import type { Logger } from "pino";
import { messageOf } from "../errors.ts";
import type { Network } from "../network/network.ts";
import { KeyedQueue } from "../queue.ts";
import type { Observed, RuntimeDriver } from "../runtime/driver.ts";
import type { ImageStore } from "../runtime/images.ts";
import type { VolumeController } from "../storage/volumes/controller.ts";
import type { Store } from "../store/store.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import { Memory } from "./memory.ts";
import {
  exitText,
  type ImageState,
  needsImage,
  type Plan,
  plan,
  type Seen,
  type Step,
  type Wanted,
} from "./planner.ts";
import type { Pulls } from "./pulls.ts";
import { newExit, statusOf } from "./status.ts";
import type { StepContext } from "./steps.ts";
import { executeStep } from "./steps.ts";
import { wantedOf } from "./wanted.ts";

export interface ReconcilerOptions {
  readonly store: Store;
  readonly driver: RuntimeDriver;
  readonly images: ImageStore;
  readonly network: Network;
  readonly volumes: VolumeController;
  /** Whether an instance of no workload is somebody else's, and alive. */
  readonly isOthers: (uid: string) => boolean;
  readonly pulls: Pulls;
  /** Directory of the workloads' own data, a directory each: logs. */
  readonly workloadsDir: string;
  readonly log: Logger;
  /** Passes at once; those that wait for something slow do not count. Default 8. */
  readonly workers?: number;
  /** Default 60,000. */
  readonly resyncMs?: number;
}

/** Progress of a pull is written at most this often, in milliseconds. */
const progressMs = 500;

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #queue: KeyedQueue;
  readonly #memories = new Map<string, Memory>();
  readonly #stopping = new AbortController();
  #goingDown = false;
  #networkChanged = true;
  #networkSync: Promise<void> = Promise.resolve();
  #unsubscribe: () => void = () => undefined;
  #resync: NodeJS.Timeout | undefined;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#queue = new KeyedQueue({ workers: options.workers ?? 8, handle: (uid) => this.#pass(uid) });
  }

  /** Adopts what runs, touching none of it; removes what belongs to no workload; then looks at every workload. */
  async start(): Promise<void> {
    const { store, driver, log } = this.#options;
    const all = await driver.list(this.#stopping.signal);
    // Before any pass: one that finds it stopped ends what it holds.
    this.#adoptVolumes(all);
    this.#unsubscribe = store.changes.subscribe((change) => {
      if (change.kind === "workload") {
        this.#networkChanged = true;
        // Begun now, beside what comes before a start; a failure is met again there.
        this.#syncNetwork().catch((error: unknown) => log.warn({ err: error }, "loading the firewall failed"));
        this.#queue.add(change.uid);
      } else if (change.kind === "workloadGone") {
        this.#networkChanged = true;
        void this.#syncNetwork().catch((error: unknown) => log.error({ err: error }, "firewall after a delete"));
      }
    });
    driver.onChange((uid) => this.#queue.add(uid));
    this.#queueAll();
    await this.#removeStrays(all);
    this.#options.volumes.settle();
    log.info({ sinceStartMs: Math.round(process.uptime() * 1000) }, "adopted what runs");
    this.#resync = setInterval(() => {
      this.#queueAll();
      driver
        .list(this.#stopping.signal)
        .then((found) => this.#removeStrays(found))
        .catch((error: unknown) => log.warn({ err: error }, "resync failed; it is tried again"));
    }, this.#options.resyncMs ?? 60_000);
    this.#resync.unref();
  }

  /** Ends without touching any workload; steps under way are cut. */
  async stop(): Promise<void> {
    clearInterval(this.#resync);
    this.#unsubscribe();
    this.#options.pulls.stop();
    this.#stopping.abort(new Error("capsuled stops"));
    await this.#queue.stop();
  }

  /** The capsule goes down: stops every workload, each with its own time to end; resolves when none runs. */
  async stopWorkloads(deadline: Date): Promise<void> {
    this.#goingDown = true;
    this.#options.pulls.stop();
    for (const { uid } of this.#options.store.workloads.list()) this.#queue.add(uid);
    for (;;) {
      const running = (await this.#options.driver.list()).filter(hasProcess);
      if (running.length === 0 || new Date() >= deadline) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Tries what failed again at once: something that it may have waited for has come. */
  retryFailed(): void {
    for (const [uid, memory] of this.#memories) {
      if (memory.failure === undefined) continue;
      memory.clearFailure();
      this.#queue.add(uid);
    }
  }

  /** What runs holds its volumes, as the capsuled before had it. */
  #adoptVolumes(all: readonly Observed[]): void {
    const { store, volumes } = this.#options;
    for (const seen of all) {
      if (store.workloads.byUid(seen.uid) === undefined) continue;
      if (seen.attached !== undefined) volumes.adoptAttached(seen.uid, seen.attached);
      else if (hasProcess(seen)) volumes.adopt(seen.uid);
    }
  }

  /** Each pass looks for itself: what a list says of a workload may be from before a step that has ended since. */
  #queueAll(): void {
    for (const { uid } of this.#options.store.workloads.list()) this.#queue.add(uid);
  }

  async #removeStrays(all: readonly Observed[]): Promise<void> {
    const { store, driver, isOthers, log } = this.#options;
    for (const seen of all) {
      if (store.workloads.byUid(seen.uid) !== undefined || isOthers(seen.uid)) continue;
      log.warn({ uid: seen.uid, workload: seen.name }, "removing an instance of no workload");
      await driver.remove(seen.uid, this.#stopping.signal);
    }
  }

  async #pass(uid: string): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    const { store, log } = this.#options;
    let record: WorkloadRecord | undefined;
    try {
      record = store.workloads.byUid(uid);
      if (record === undefined) {
        this.#memories.delete(uid);
        this.#options.pulls.forget(uid);
        return;
      }
      await this.#reconcile(record, this.#memoryOf(record));
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      log.error({ err: error, uid, workload: record?.name }, "reconciling failed");
      // Nothing was learnt of the workload, so its status stays; a full disk or a containerd that restarts ends here.
      this.#queue.addAt(uid, new Date(Date.now() + 2_000));
    }
  }

  async #reconcile(record: WorkloadRecord, memory: Memory): Promise<void> {
    const { store, driver } = this.#options;
    const now = new Date();
    const seen = await driver.observe(record.uid, this.#stopping.signal);
    // One that has ended by itself holds its volumes until this.
    if (!hasProcess(seen)) await this.#options.volumes.release(record.uid);
    const wanted = wantedOf(record);
    this.#noteExit(record, wanted, seen, memory, now);
    const made = await this.#plan(record, wanted, seen, memory, now);
    this.#writeStatus(record, seen, made, memory, now);
    if (made.wakeAt !== undefined) this.#queue.addAt(record.uid, made.wakeAt);
    if (made.step.kind !== "pull") this.#options.pulls.forget(record.uid);
    if (made.step.kind === "none") return;
    if (made.step.kind === "pull") {
      this.#pull(record, memory);
      return;
    }
    try {
      if (made.step.kind === "start") await this.#syncNetwork();
      await executeStep(made.step, this.#stepContext(record));
      this.#stepDone(record, made.step, memory);
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      this.#stepFailed(record, memory, made.step, error);
    }
    // Look again: at what the step made, or to write down that it failed.
    if (store.workloads.byUid(record.uid) !== undefined) this.#queue.add(record.uid);
  }

  async #plan(
    record: WorkloadRecord,
    wanted: Wanted,
    seen: Seen | undefined,
    memory: Memory,
    now: Date,
  ): Promise<Plan> {
    const imageName = record.spec.kind.value?.image ?? "";
    const context = { now, imageName, goingDown: this.#goingDown };
    const canTry = memory.failure === undefined || memory.failure.retryAt <= now;
    const image: ImageState =
      needsImage(wanted, seen, context) && canTry ? await this.#findImage(imageName, memory) : { state: "unknown" };
    const { phase, observedGeneration } = record.status;
    const remembered = { phase, phaseGeneration: Number(observedGeneration), failure: memory.failure };
    return plan(wanted, seen, image, remembered, context);
  }

  /** A machine that boots its own kernel has no image: there is nothing to fetch. */
  async #findImage(name: string, memory: Memory): Promise<ImageState> {
    if (name === "") return { state: "present", digest: "", fresh: true };
    const { images } = this.#options;
    const found = await images.find(images.normalize(name), this.#stopping.signal);
    return found === undefined
      ? { state: "absent" }
      : { state: "present", digest: found.digest, fresh: memory.pulled !== undefined };
  }

  #noteExit(record: WorkloadRecord, wanted: Wanted, seen: Observed | undefined, memory: Memory, now: Date): void {
    const exit = newExit(record, seen);
    if (exit === undefined) return;
    record.status.lastExit = {
      $typeName: "capsule.v1.ExitStatus",
      code: exit.exitCode,
      finishedAt: timestampFromDate(exit.finishedAt),
      outOfMemory: exit.outOfMemory,
    };
    if (wanted.state !== "running" || wanted.restart || this.#goingDown || seen?.generation !== wanted.generation)
      return;
    const what =
      exit.reason ?? (exit.outOfMemory ? "Killed: it used more memory than its limit" : exitText(exit.exitCode));
    const failures = memory.runEnded(what, exit.ranMs, now);
    if (failures > 1)
      memory.failure = { message: `${what}, ${failures} times in a row`, retryAt: memory.failure?.retryAt ?? now };
    this.#event(
      record,
      exit.exitCode === 0 ? EventType.NORMAL : EventType.WARNING,
      exit.outOfMemory ? "OutOfMemory" : "Exited",
      what,
    );
  }

  #pull(record: WorkloadRecord, memory: Memory): void {
    const { pulls, images, store } = this.#options;
    const { uid, generation } = record;
    const reference = images.normalize(record.spec.kind.value?.image ?? "");
    if (pulls.isWaiting(uid, reference)) return;
    this.#event(record, EventType.NORMAL, "Pulling", `Pulling ${reference}`);
    let written = 0;
    pulls.want(uid, reference, {
      onProgress: ({ doneBytes, totalBytes }) => {
        memory.progress = { doneBytes, totalBytes };
        if (Date.now() - written < progressMs) return;
        written = Date.now();
        this.#queue.add(uid);
      },
      onDone: (result) => {
        memory.progress = undefined;
        const current = store.workloads.byUid(uid);
        if (current?.generation === generation) {
          if ("image" in result) {
            memory.pulled = result.image.digest;
            memory.clearFailure();
            this.#event(record, EventType.NORMAL, "Pulled", `Pulled ${reference} (${result.image.digest})`);
          } else if (!this.#stopping.signal.aborted) {
            const message = `Pulling ${reference} failed: ${messageOf(result.error)}`;
            memory.failed(message, new Date());
            this.#event(record, EventType.WARNING, "PullFailed", message);
          }
        }
        this.#queue.add(uid);
      },
    });
  }

  #stepContext(record: WorkloadRecord): StepContext {
    const { driver, network, images, volumes, store, workloadsDir } = this.#options;
    return { record, driver, network, images, volumes, store, workloadsDir, stopping: this.#stopping.signal };
  }

  #stepDone(record: WorkloadRecord, step: Step, memory: Memory): void {
    const { store } = this.#options;
    if (step.kind === "start") {
      const first = store.workloads.noteStart(record.uid, new Date());
      if (record.restartsDone < record.restartsWanted) {
        store.workloads.setRestartsDone(record.uid, record.restartsWanted);
        memory.clearFailure();
      }
      // The count of failures stays until the run has been long enough; what it said is over.
      memory.failure = undefined;
      this.#event(record, EventType.NORMAL, "Started", first ? "Started" : "Started again");
    } else if (step.kind === "stop") this.#event(record, EventType.NORMAL, "Stopped", "Stopped");
    else if (step.kind === "pause") this.#event(record, EventType.NORMAL, "Paused", "Paused");
    else if (step.kind === "resume") this.#event(record, EventType.NORMAL, "Resumed", "Resumed");
    else if (step.kind === "remove" && !record.deleting)
      this.#event(record, EventType.NORMAL, "Replaced", "Removed the instance of the version before");
  }

  #stepFailed(record: WorkloadRecord, memory: Memory, step: Step, error: unknown): void {
    const doing = {
      start: "Starting",
      stop: "Stopping",
      pause: "Pausing",
      resume: "Resuming",
      remove: "Removing",
      forget: "Removing",
      pull: "Pulling",
      none: "",
    };
    const message = `${doing[step.kind]} failed: ${messageOf(error)}`;
    this.#options.log.warn({ err: error, uid: record.uid, workload: record.name, step: step.kind }, "step failed");
    memory.failed(message, new Date());
    this.#event(record, EventType.WARNING, "Failed", message);
  }

  #writeStatus(record: WorkloadRecord, seen: Observed | undefined, made: Plan, memory: Memory, now: Date): void {
    const { store } = this.#options;
    const addresses = store.addresses.of(record.uid).map(({ address }) => address);
    const status = statusOf(record, seen, made, memory, addresses, now);
    const stored = store.workloads.byUid(record.uid)?.status;
    if (stored === undefined || equals(WorkloadStatusSchema, stored, status)) return;
    store.workloads.setStatus(record.uid, status);
  }

  /** Firewall and names as the store says, if it changed since they were loaded. Many starts share one load. */
  #syncNetwork(): Promise<void> {
    if (this.#networkChanged) {
      this.#networkChanged = false;
      this.#networkSync = this.#options.network.sync().catch((error: unknown) => {
        this.#networkChanged = true;
        throw error;
      });
    }
    return this.#networkSync;
  }

  #memoryOf(record: WorkloadRecord): Memory {
    let memory = this.#memories.get(record.uid);
    if (memory === undefined) {
      memory = new Memory();
      this.#memories.set(record.uid, memory);
    }
    memory.useGeneration(record.generation);
    const requests = `${record.restartsWanted} ${record.desired} ${record.paused} ${record.deleting}`;
    if (memory.requests !== requests) memory.clearFailure();
    memory.requests = requests;
    return memory;
  }

  #event(record: WorkloadRecord, type: EventType, reason: string, message: string): void {
    this.#options.store.events.add({
      objectKind: "workload",
      objectName: record.name,
      type,
      reason,
      message,
      time: new Date(),
    });
  }
}

/** Whether a process of it may be using its volumes. */
function hasProcess(seen: Observed | undefined): boolean {
  return seen !== undefined && seen.task.state !== "none" && seen.task.state !== "stopped";
}
