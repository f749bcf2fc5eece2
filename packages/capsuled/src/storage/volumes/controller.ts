/**
 * Brings every volume to what is wanted of it, and keeps it there. Level-triggered, as the reconciler of workloads: each
 * pass looks at the store, the pool and the mounts, plans one step, carries it out and looks again.
 *
 * Invariants: everything that changes a volume or its disk runs inside `exclusive` of its uid, one at a time. A volume is
 * mounted before it is given to anybody, and unmounted only when nobody holds it; after a start of capsuled nothing is
 * unmounted before those who run have been asked what they hold (`settle`). A disk that is not whole and that no row and
 * no work under way knows was promised to nobody: it goes. A whole one is never removed but by a step for its own volume.
 */
import { EventType, VolumePhase } from "@capsule/api";
import type { Logger } from "pino";
import { backoffMs } from "../../backoff.ts";
import { CapsuleError, messageOf } from "../../errors.ts";
import { KeyedMutex } from "../../mutex.ts";
import { KeyedQueue } from "../../queue.ts";
import type { Store } from "../../store/store.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { snapshotDisk, volumeDisk, volumeMountsDir, wholeExtents } from "../layout.ts";
import type { Pools } from "../pool/pools.ts";
import { thaw } from "../tools/freeze.ts";
import { mountsBelow } from "../tools/mount.ts";
import { Attachments } from "./attachments.ts";
import { VolumeFacts } from "./facts.ts";
import { Holders, inUseNow } from "./holders.ts";
import { removeLeftovers } from "./leftovers.ts";
import { directoryIn, mountVolume, unmountVolume } from "./mounts.ts";
import { observe } from "./observe.ts";
import { type Plan, plan, type Step } from "./plan.ts";
import { addEvent, type VolumeEvent, writeStatus } from "./reports.ts";
import { executeStep } from "./steps.ts";
import { tidySnapshots } from "./tidy-snapshots.ts";

export interface VolumeControllerOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly log: Logger;
  /** Default 60,000. */
  readonly resyncMs?: number;
}

export interface WantedMount {
  readonly volume: string;
  readonly subPath: string;
  readonly readOnly: boolean;
}

/** What is told of a step that had its effect. */
const eventOf: Partial<Record<Step["kind"], VolumeEvent>> = {
  provision: { reason: "Created", message: "Its disk and filesystem are made" },
  growFilesystem: { reason: "Grown", message: "Its filesystem has grown" },
  verify: { reason: "Checked", message: "Its filesystem had noted an error; e2fsck found it whole" },
};

/** More than any volume needs: a step that changes nothing would otherwise go on for ever. */
const maxSteps = 20;

export class VolumeController {
  readonly facts: VolumeFacts;
  /** Nothing of a volume that is attached may be written here. */
  readonly attachments = new Attachments();
  readonly #options: VolumeControllerOptions;
  readonly #queue: KeyedQueue;
  readonly #mutex = new KeyedMutex();
  readonly #holders = new Holders();
  readonly #failures = new Map<
    string,
    { readonly count: number; readonly message: string; readonly retryAt: number }
  >();
  readonly #growsUnmountedOnly = new Set<string>();
  /** Of disks, by uid: what e2fsck found wrong, so that a damaged one is not looked through again and again. */
  readonly #damage = new Map<string, string>();
  /** Uids of disks that are being made and that no row knows yet. */
  readonly #making = new Set<string>();
  #strangers: readonly string[] = [];
  #settled = false;
  #stopped = false;
  #unsubscribe: () => void = () => undefined;
  #resync: NodeJS.Timeout | undefined;

  constructor(options: VolumeControllerOptions) {
    this.#options = options;
    this.facts = new VolumeFacts(options.store, options.pools);
    this.#queue = new KeyedQueue({ workers: 4, handle: (uid) => this.#pass(uid) });
  }

  /** Cleans up after a kill, and begins to look after the volumes. Never throws over a pool that is not there. */
  async start(): Promise<void> {
    const { store, log } = this.#options;
    for (const { target } of await mountsBelow(volumeMountsDir)) await thaw(target);
    this.#unsubscribe = store.changes.subscribe((change) => {
      if (change.kind === "volume") this.#queue.add(change.volumeUid);
      if (change.kind === "volumeGone") this.#forget(change.volumeUid);
    });
    const look = (): Promise<void> =>
      this.#lookAtAll().catch((error: unknown) => log.warn({ err: error }, "looking at the volumes failed"));
    await look();
    this.#resync = setInterval(() => void look(), this.#options.resyncMs ?? 60_000);
    this.#resync.unref();
  }

  /** From now on what nobody holds is unmounted: everyone who runs has been asked. */
  settle(): void {
    this.#settled = true;
    for (const { uid } of this.#options.store.volumes.list()) this.#queue.add(uid);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#resync);
    this.#unsubscribe();
    await this.#queue.stop();
  }

  /** Disks of no volume that are whole, for people: nobody but they can know what they hold. */
  get strangers(): readonly string[] {
    return this.#strangers;
  }

  /** Runs work on a volume while nothing else changes it. */
  async exclusive<T>(uid: string, work: () => Promise<T>): Promise<T> {
    return await this.#mutex.run(uid, work);
  }

  /** Keeps a new disk from being taken for a leftover until `work` has written its row, or failed. */
  async making<T>(diskUid: string, work: () => Promise<T>): Promise<T> {
    const release = this.reserve(diskUid);
    return await work().finally(release);
  }

  /** The same until what it returns is called. */
  reserve(diskUid: string): () => void {
    this.#making.add(diskUid);
    return () => void this.#making.delete(diskUid);
  }

  /** Notes that somebody uses a volume, which keeps it mounted. */
  hold(uid: string, holder: string): void {
    this.#holders.add(uid, holder);
  }

  /** Notes after a start of capsuled that a workload runs, and so holds the volumes that it claims. */
  adopt(workloadUid: string): void {
    if (this.#settled) return;
    for (const { volume } of this.#options.store.volumeClaims.of(workloadUid)) {
      const record = this.#options.store.volumes.get(volume);
      if (record !== undefined) this.hold(record.uid, workloadUid);
    }
  }

  /** The same of a microVM that has these volumes as disks. */
  adoptAttached(workloadUid: string, volumes: readonly { readonly uid: string; readonly readOnly: boolean }[]): void {
    for (const { uid, readOnly } of volumes) this.#attach(uid, workloadUid, readOnly);
  }

  #attach(uid: string, workloadUid: string, readOnly: boolean): void {
    this.hold(uid, workloadUid);
    this.attachments.add(uid, workloadUid, readOnly);
  }

  /**
   * Readies a volume to be a disk of a microVM, which holds it until `release`. Its journal is replayed first, so a damaged
   * one is found here. Returns a path of the capsule. Throws CapsuleError as `mountFor` does, and `unavailable` while the
   * volume is mounted on the capsule, or another microVM writes to it: two writers, or one whose cache the other does not
   * see, would destroy it.
   */
  async attachFor(workloadUid: string, volume: string, readOnly: boolean): Promise<{ uid: string; path: string }> {
    const { pools } = this.#options;
    const uid = this.#uidOf(volume);
    return await this.exclusive(uid, async () => {
      const others = this.#holders.of(uid).filter((holder) => holder !== workloadUid);
      const readers = others.every((holder) => this.attachments.onlyReads(uid, holder));
      if (others.length > 0 && !(readOnly && readers)) throw inUseNow(volume, this.holdersOf(uid));
      const record = await this.readied(uid);
      const backend = await pools.get(record.pool).use();
      const id = { name: volumeDisk(record.name), uid: record.diskUid };
      // Mounted and unmounted once: what a crash has left in the journal is put into place, by the kernel and not by two.
      if (others.length === 0) {
        await mountVolume(backend, record.name, uid, id);
        await unmountVolume(uid);
      }
      this.#attach(uid, workloadUid, readOnly);
      return { uid, path: await backend.pathOf(id) };
    });
  }

  /**
   * Calls `work` with the directory on which a volume is mounted, for reading. Throws CapsuleError as `mountFor` does, and
   * `unavailable` while a microVM has it as a disk: it would not see what that one is writing.
   */
  async read<T>(volume: string, work: (dir: string) => Promise<T>): Promise<T> {
    const uid = this.#uidOf(volume);
    return await this.exclusive(uid, async () => {
      if (this.attachments.has(uid)) throw inUseNow(volume, this.holdersOf(uid));
      try {
        return await work(await this.mount(uid));
      } finally {
        // Unmounts it, unless somebody holds it.
        await this.advance(uid);
      }
    });
  }

  /** Ends what a workload holds; resolves when what nobody else holds is flushed and unmounted, or has failed to be. */
  async release(workloadUid: string): Promise<void> {
    await Promise.all(this.#holders.heldBy(workloadUid).map((uid) => this.releaseVolume(uid, workloadUid)));
  }

  async releaseVolume(uid: string, holder: string): Promise<void> {
    this.#holders.remove(uid, holder);
    this.attachments.remove(uid, holder);
    await this.exclusive(uid, () => this.advance(uid));
  }

  holdersOf(uid: string): string[] {
    return this.#holders.of(uid).map((holder) => this.#options.store.workloads.byUid(holder)?.name ?? holder);
  }

  /** Those of the holders that are no workloads: shells, copies, repairs. */
  sessionsOf(uid: string): string[] {
    const { workloads } = this.#options.store;
    return this.#holders.of(uid).filter((holder) => workloads.byUid(holder) === undefined);
  }

  /**
   * Mounts what a workload wants, in their order, and holds it for the workload until `release`. Returns directories of the
   * capsule. Throws CapsuleError: `notFound` for a volume that does not exist, `unavailable` for one that is not ready,
   * `precondition` for a damaged one.
   */
  async mountFor(workloadUid: string, wanted: readonly WantedMount[]): Promise<string[]> {
    const paths: string[] = [];
    for (const { volume, subPath, readOnly } of wanted) {
      const uid = this.#uidOf(volume);
      const target = await this.exclusive(uid, async () => {
        const others = this.attachments.has(uid) ? this.holdersOf(uid) : this.sessionsOf(uid);
        if (others.length > 0) throw inUseNow(volume, others);
        this.hold(uid, workloadUid);
        return await this.mount(uid);
      });
      paths.push(await directoryIn(target, subPath, readOnly, volume));
    }
    return paths;
  }

  #uidOf(volume: string): string {
    const uid = this.#options.store.volumes.get(volume)?.uid;
    if (uid === undefined) throw new CapsuleError("notFound", `volume "${volume}" does not exist`);
    return uid;
  }

  /** Mounts a volume that the caller holds; inside `exclusive`. */
  async mount(uid: string): Promise<string> {
    if (this.attachments.has(uid)) throw new CapsuleError("internal", `volume ${uid} is a disk of a microVM`);
    const record = await this.readied(uid);
    const backend = await this.#options.pools.get(record.pool).use();
    return await mountVolume(backend, record.name, uid, { name: volumeDisk(record.name), uid: record.diskUid });
  }

  /** The record of a volume whose disk is in place, inside `exclusive`. Throws `unavailable` with what is the matter. */
  async readied(uid: string): Promise<VolumeRecord> {
    await this.advance(uid);
    const record = this.#options.store.volumes.byUid(uid);
    if (record === undefined) throw new CapsuleError("notFound", "the volume does not exist any more");
    const { phase, message } = record.status;
    if (phase === VolumePhase.READY) return record;
    throw new CapsuleError("unavailable", `volume "${record.name}" is ${VolumePhase[phase]}: ${message}`, {
      reason: "VOLUME_NOT_READY",
      metadata: { volume: record.name },
    });
  }

  /** Makes a pass soon. */
  wake(uid: string): void {
    this.#queue.add(uid);
  }

  /** Unmounts everything, for the capsule goes down. Nothing may be mounted afterwards. */
  async unmountAll(): Promise<void> {
    this.#holders.clear();
    this.settle();
    const uids = (await mountsBelow(volumeMountsDir)).map(({ target }) => target.slice(volumeMountsDir.length + 1));
    await Promise.all(uids.map((uid) => this.exclusive(uid, () => this.advance(uid))));
  }

  /** One look at every pool and all mounts: what was promised to nobody goes, and each volume gets a pass. */
  async #lookAtAll(): Promise<void> {
    const { store, pools, log } = this.#options;
    for (const { uid } of store.volumes.list()) this.#queue.add(uid);
    for (const { target } of await mountsBelow(volumeMountsDir))
      this.#queue.add(target.slice(volumeMountsDir.length + 1));
    const isMaking = (diskUid: string): boolean => this.#making.has(diskUid);
    this.#strangers = await removeLeftovers({ store, pools, isMaking, log });
  }

  async #pass(uid: string): Promise<void> {
    await this.exclusive(uid, async () => {
      const failure = this.#failures.get(uid);
      if (failure !== undefined && failure.retryAt > Date.now()) {
        this.#queue.addAt(uid, new Date(failure.retryAt));
        return;
      }
      await this.advance(uid);
    });
  }

  /** Steps until there is none, inside `exclusive`. Never throws: a failure is told in the status, and tried again later. */
  async advance(uid: string): Promise<void> {
    const { store, log } = this.#options;
    for (let i = 0; i < maxSteps && !this.#stopped; i++) {
      const record = store.volumes.byUid(uid);
      let step: Step = { kind: "none" };
      try {
        const made = await this.#plan(record, uid);
        if (record !== undefined) writeStatus(store, record, made);
        step = made.step;
        if (step.kind === "none") break;
        await this.#execute(step, uid, record);
      } catch (error) {
        log.warn({ err: error, uid, volume: record?.name, step: step.kind }, "step of a volume failed");
        if (record !== undefined) this.#failed(record, error);
        return;
      }
    }
    this.#failures.delete(uid);
    await tidySnapshots(this.#options, uid).catch((error: unknown) =>
      log.warn({ err: error, uid }, "tidying snapshots failed"),
    );
  }

  async #plan(record: VolumeRecord | undefined, uid: string): Promise<Plan> {
    const seen = await observe({
      record,
      uid,
      pools: this.#options.pools,
      // Until then everything counts as held: those who hold it have not been asked.
      holders:
        this.#settled || this.#holders.of(uid).length > 0
          ? this.holdersOf(uid)
          : ["workloads that are being looked for"],
      attached: this.attachments.has(uid) || !this.#settled,
      growsUnmountedOnly: this.#growsUnmountedOnly.has(uid),
      snapshots: this.#options.store.snapshots.of(uid).length,
      damage: this.#damage,
      ownerOf: (disk) => {
        const snapshot = this.#options.store.snapshots.byDisk(disk.uid);
        return snapshot === undefined ? undefined : snapshotDisk(snapshot.uid);
      },
    });
    if (seen.disk !== undefined && seen.filesystem?.hasErrors === false) this.#damage.delete(seen.disk.uid);
    if (record === undefined) {
      // Mounted, and of no volume: left by a deletion that was cut.
      const step: Step = seen.mounted && seen.holders.length === 0 ? { kind: "unmount" } : { kind: "none" };
      return { step, phase: VolumePhase.DELETING, message: "Unmounting" };
    }
    const { deleting, provisioned, spec, name } = record;
    const sizeBytes = wholeExtents(Number(spec.sizeBytes));
    return plan({ deleting, provisioned, sizeBytes, diskName: volumeDisk(name) }, seen);
  }

  async #execute(step: Exclude<Step, { kind: "none" }>, uid: string, record: VolumeRecord | undefined): Promise<void> {
    const { store, pools } = this.#options;
    if (step.kind === "removeSnapshots") {
      // Each was marked with the volume; a volume that is deleted by an older version's row has none.
      for (const { uid: snapshot } of store.snapshots.of(uid)) store.snapshots.markDeleting(snapshot);
      return await tidySnapshots({ store, pools }, uid);
    }
    const done = await executeStep(step, { uid, record, store, pools, damage: this.#damage });
    if (step.kind === "growFilesystem" && !done) this.#growsUnmountedOnly.add(uid);
    if (step.kind === "unmount") this.#growsUnmountedOnly.delete(uid);
    if (record === undefined) return;
    const told = done ? eventOf[step.kind] : undefined;
    if (told !== undefined) addEvent(store, record, told);
  }

  #failed(record: VolumeRecord, error: unknown): void {
    const { uid } = record;
    const count = (this.#failures.get(uid)?.count ?? 0) + 1;
    const message = `${messageOf(error)}`;
    const retryAt = Date.now() + backoffMs(count);
    this.#failures.set(uid, { count, message, retryAt });
    this.#queue.addAt(uid, new Date(retryAt));
    const { provisioned, deleting } = record;
    const lost = error instanceof CapsuleError && error.reason === "POOL_UNAVAILABLE";
    const kept = lost ? VolumePhase.MISSING : VolumePhase.FAILED;
    const phase = deleting ? VolumePhase.DELETING : provisioned ? kept : VolumePhase.PENDING;
    const { store } = this.#options;
    writeStatus(store, record, { phase, message });
    addEvent(store, record, { type: EventType.WARNING, reason: "Failed", message });
  }

  #forget(uid: string): void {
    this.#holders.removeAll(uid);
    this.attachments.removeAll(uid);
    this.#failures.delete(uid);
    this.#growsUnmountedOnly.delete(uid);
  }
}
