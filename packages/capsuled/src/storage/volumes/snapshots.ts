/**
 * Snapshots of volumes. Each is a disk of its own that shares blocks with the volume's. Made in two phases around the row,
 * as every disk: what is cut before the row was promised to nobody and goes; what is cut after it is finished by the next
 * pass of its volume.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { clone } from "@bufbuild/protobuf";
import { EventType, VolumePhase, VolumeSpecSchema } from "@capsule/api";
import type { Logger } from "pino";
import { CapsuleError, messageOf } from "../../errors.ts";
import type { SnapshotOrigin, SnapshotRecord } from "../../store/snapshots.ts";
import type { Store } from "../../store/store.ts";
import { newUid } from "../../store/uid.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { scratchDisk, snapshotDisk, volumeMount } from "../layout.ts";
import type { Disk, DiskId, PoolBackend } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";
import { withFrozen } from "../tools/freeze.ts";
import { isMounted } from "../tools/mount.ts";
import type { VolumeController } from "./controller.ts";
import { addEvent } from "./reports.ts";
import { defaultKeep, nextDue, retired } from "./schedule.ts";
import { StoppedUsers } from "./stopped-users.ts";
import { tidySnapshots } from "./tidy-snapshots.ts";
import { isVolumeName, nameFault } from "./validate.ts";

/** Most snapshots of one volume. */
const maxSnapshots = 2_000;
/** The longest stop timeout of a workload, and what follows it. In milliseconds. */
const stopWaitMs = 11 * 60_000;
const scheduleEveryMs = 30_000;

export interface SnapshotsOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly controller: VolumeController;
  readonly log: Logger;
  /** Calls `work` while a volume is at rest in the microVM that writes to it. */
  readonly whileFrozenIn: <T>(workloadUid: string, volumeUid: string, work: () => Promise<T>) => Promise<T>;
  readonly now?: () => Date;
}

export interface SnapshotFacts {
  readonly record: SnapshotRecord;
  readonly missing: boolean;
  readonly exclusiveBytes: number | undefined;
}

export interface Copy {
  readonly backend: PoolBackend;
  readonly disk: DiskId;
  readonly sizeBytes: number;
  /** From now on it may be taken for a leftover. */
  readonly release: () => void;
}

export class Snapshots {
  readonly #options: SnapshotsOptions;
  readonly #now: () => Date;
  readonly #users: StoppedUsers;
  #timer: NodeJS.Timeout | undefined;
  #underWay: Promise<void> = Promise.resolve();

  constructor(options: SnapshotsOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => new Date());
    this.#users = new StoppedUsers(options.store, this.#now);
  }

  /** Takes what the schedules say from now on; what was missed, once. */
  start(): void {
    this.#users.startLeft();
    const run = (): void => {
      this.#underWay = this.#underWay.then(() => this.runSchedules());
    };
    run();
    this.#timer = setInterval(run, scheduleEveryMs);
    this.#timer.unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#underWay;
  }

  /** Takes a snapshot now. Throws `conflict` when the volume has one of this name, `unavailable` when it has no disk. */
  async create(volume: VolumeRecord, name: string, origin: SnapshotOrigin = "manual"): Promise<SnapshotRecord> {
    const { store, pools, controller } = this.#options;
    const now = this.#now();
    if (name !== "" && !isVolumeName(name)) throw invalidName(name);
    return await controller.exclusive(volume.uid, async () => {
      const wanted = name === "" ? this.#freeName(volume.uid, `at-${stamp(now)}`) : name;
      const record = await this.#withDisk(volume.uid);
      const existing = store.snapshots.of(volume.uid);
      if (existing.some((one) => one.name === wanted)) throw exists(record.name, wanted);
      if (existing.length >= maxSnapshots)
        throw new CapsuleError("exhausted", `Volume "${record.name}" has ${maxSnapshots} snapshots; delete some.`);
      const backend = await pools.get(record.pool).use();
      const disk = await diskOf(backend, record);
      const [uid, diskUid] = [newUid("s"), newUid("d")];
      const id = { name: snapshotDisk(uid), uid: diskUid };
      await controller.making(diskUid, async () => {
        await this.#take(backend, record, disk, id);
        const { sizeBytes } = disk;
        store.snapshots.insert({
          uid,
          volumeUid: record.uid,
          name: wanted,
          diskUid,
          sizeBytes,
          origin,
          createdAt: now,
        });
      });
      await backend.publish(id, id.name);
      this.#event(record, "SnapshotTaken", `Snapshot ${wanted} is taken`);
      const made = store.snapshots.get(record.uid, wanted);
      if (made === undefined) throw new CapsuleError("internal", `snapshot ${wanted} is not in the store`);
      return made;
    });
  }

  /** Of a volume, oldest first, with what there is of their disks. */
  async list(volume: VolumeRecord): Promise<SnapshotFacts[]> {
    const records = this.#options.store.snapshots.of(volume.uid).filter(({ deleting }) => !deleting);
    if (records.length === 0) return [];
    const backend = await this.#options.pools.get(volume.pool).use();
    const disks = new Map((await backend.list()).map((disk) => [disk.uid, disk]));
    const facts: SnapshotFacts[] = [];
    for (const record of records) {
      const disk = disks.get(record.diskUid);
      const exclusiveBytes = disk === undefined ? undefined : await backend.exclusiveBytes(disk).catch(() => undefined);
      facts.push({ record, missing: disk === undefined, exclusiveBytes });
    }
    return facts;
  }

  /** Resolves when they are gone. Throws `notFound` naming those that do not exist, and deletes none then. */
  async delete(volume: VolumeRecord, names: readonly string[]): Promise<void> {
    const { store, controller } = this.#options;
    if (names.length === 0) throw new CapsuleError("invalid", "No snapshot was named.");
    await controller.exclusive(volume.uid, async () => {
      store.transaction(() => {
        const found = names.map((name) => this.#get(volume, name));
        for (const { uid } of found) store.snapshots.markDeleting(uid);
      });
      await tidySnapshots(this.#options, volume.uid);
    });
  }

  /**
   * Gives the volume back what the snapshot holds. What it held until then becomes a snapshot, whose name is returned: a
   * restore loses nothing. Throws `precondition` while workloads run with it, unless they are to be stopped.
   */
  async restore(volume: VolumeRecord, name: string, stop: boolean, signal: AbortSignal): Promise<string> {
    const { controller } = this.#options;
    this.#get(volume, name);
    const stopped = stop ? this.#users.stop(volume.name) : [];
    try {
      if (stop) await this.#untilUnused(volume.uid, signal);
      return await controller.exclusive(volume.uid, async () => {
        await controller.advance(volume.uid);
        const holders = controller.holdersOf(volume.uid);
        if (holders.length > 0)
          throw inUse(volume.name, holders, ", or use --stop, which stops it and starts it again");
        if (await isMounted(volumeMount(volume.uid)))
          throw new CapsuleError("unavailable", `Volume "${volume.name}" is still mounted. Try again.`);
        return await this.#exchange(volume, name);
      });
    } finally {
      this.#users.startAgain(stopped);
    }
  }

  /** Makes a new volume of a snapshot, of the same spec but for name and schedule. Throws `conflict` for a name in use. */
  async restoreAs(volume: VolumeRecord, name: string, newName: string): Promise<VolumeRecord> {
    const { store, pools, controller } = this.#options;
    if (!isVolumeName(newName)) throw invalidName(newName);
    const spec = clone(VolumeSpecSchema, volume.spec);
    Object.assign(spec, { name: newName, snapshotSchedule: "", snapshotKeep: 0 });
    const made = await controller.exclusive(volume.uid, async () => {
      const { uid, diskUid, sizeBytes } = this.#get(volume, name);
      if (BigInt(sizeBytes) > spec.sizeBytes) spec.sizeBytes = BigInt(sizeBytes);
      const backend = await pools.get(volume.pool).use();
      const id = this.#scratch();
      return await controller.making(id.uid, async () => {
        refuseExisting(store.volumes.get(newName));
        await backend.snapshot({ name: snapshotDisk(uid), uid: diskUid }, id);
        return store.transaction(() => {
          refuseExisting(store.volumes.get(newName));
          return store.volumes.insert(spec, volume.pool, this.#now(), { uid: id.uid });
        });
      });
    });
    await controller.exclusive(made.uid, () => controller.advance(made.uid));
    return store.volumes.byUid(made.uid) ?? made;
  }

  /**
   * A copy of a volume as it is now, or of a snapshot of it, for the caller alone: he removes it, and calls `release` before
   * that. What a kill leaves of it goes.
   */
  async takeCopy(volume: VolumeRecord, snapshot: string): Promise<Copy> {
    const { store, pools, controller } = this.#options;
    return await controller.exclusive(volume.uid, async () => {
      const record = snapshot === "" ? await this.#withDisk(volume.uid) : (store.volumes.byUid(volume.uid) ?? volume);
      const backend = await pools.get(record.pool).use();
      const disk = this.#scratch();
      const release = controller.reserve(disk.uid);
      try {
        if (snapshot === "") {
          const from = await diskOf(backend, record);
          await this.#take(backend, record, from, disk);
          return { backend, disk, sizeBytes: from.sizeBytes, release };
        }
        const { uid, diskUid, sizeBytes } = this.#get(record, snapshot);
        await backend.snapshot({ name: snapshotDisk(uid), uid: diskUid }, disk);
        return { backend, disk, sizeBytes, release };
      } catch (error) {
        release();
        await backend.remove(disk).catch(() => undefined);
        throw error;
      }
    });
  }

  /** Takes what is due and deletes what a schedule keeps no more. Never throws. */
  async runSchedules(): Promise<void> {
    const { store, log } = this.#options;
    for (const volume of store.volumes.list()) {
      const { snapshotSchedule, snapshotKeep } = volume.spec;
      if (snapshotSchedule === "" || volume.deleting || !volume.provisioned) continue;
      const now = this.#now();
      const scheduled = store.snapshots
        .of(volume.uid)
        .filter(({ origin, deleting }) => origin === "schedule" && !deleting);
      // What a wrong clock has dated in the future says nothing of what is due.
      const last = scheduled
        .map(({ createdAt }) => createdAt)
        .filter((date) => date <= now)
        .at(-1);
      const due = nextDue(snapshotSchedule, last ?? new Date(0));
      if (due === undefined || due > now) continue;
      try {
        await this.create(volume, `${snapshotSchedule}-${stamp(now)}`, "schedule");
        const all = store.snapshots.of(volume.uid).filter(({ origin, deleting }) => origin === "schedule" && !deleting);
        const old = retired(all, snapshotKeep || defaultKeep).map((one) => one.name);
        if (old.length > 0) await this.delete(volume, old);
      } catch (error) {
        log.warn({ err: error, volume: volume.name }, "a scheduled snapshot was not taken; it is tried again");
        this.#event(
          volume,
          "SnapshotFailed",
          `The ${snapshotSchedule} snapshot was not taken: ${messageOf(error)}`,
          EventType.WARNING,
        );
      }
    }
  }

  /** The volume's new disk is made beside; the row's change is the moment at which it counts. */
  async #exchange(volume: VolumeRecord, name: string): Promise<string> {
    const { store, pools, controller } = this.#options;
    const { uid, diskUid } = this.#get(volume, name);
    const backend = await pools.get(volume.pool).use();
    const id = this.#scratch();
    const before = this.#freeName(volume.uid, `before-restore-${stamp(this.#now())}`);
    await controller.making(id.uid, async () => {
      await backend.snapshot({ name: snapshotDisk(uid), uid: diskUid }, id);
      const current = store.volumes.byUid(volume.uid);
      if (current === undefined) throw new CapsuleError("notFound", `Volume "${volume.name}" does not exist any more.`);
      const old = (await backend.list()).find((disk) => disk.uid === current.diskUid);
      store.transaction(() => {
        const createdAt = this.#now();
        store.volumes.setDisk(volume.uid, id.uid, createdAt);
        // One whose disk is lost has nothing to keep.
        if (old === undefined) return;
        const { sizeBytes } = old;
        const kept = { volumeUid: volume.uid, name: before, diskUid: old.uid, sizeBytes, createdAt };
        store.snapshots.insert({ ...kept, origin: "restore" });
      });
    });
    await controller.advance(volume.uid);
    this.#event(volume, "Restored", `Restored to snapshot ${name}; what it held before is snapshot ${before}`);
    return store.snapshots.get(volume.uid, before) === undefined ? "" : before;
  }

  async #take(backend: PoolBackend, record: VolumeRecord, from: DiskId, to: DiskId): Promise<void> {
    const writer = this.#options.controller.attachments.writerOf(record.uid);
    if (writer !== undefined)
      return await this.#options.whileFrozenIn(writer, record.uid, () => backend.snapshot(from, to));
    const target = volumeMount(record.uid);
    if (backend.snapshotFreezes || !(await isMounted(target))) return await backend.snapshot(from, to);
    await withFrozen(target, () => backend.snapshot(from, to));
  }

  /** The record of a volume that has a disk, damaged or not. Inside `exclusive`. */
  async #withDisk(uid: string): Promise<VolumeRecord> {
    const { controller, store } = this.#options;
    await controller.advance(uid);
    const record = store.volumes.byUid(uid);
    if (record === undefined) throw new CapsuleError("notFound", "The volume does not exist any more.");
    const { phase, message } = record.status;
    if (phase === VolumePhase.READY || phase === VolumePhase.FAILED) return record;
    throw new CapsuleError("unavailable", `Volume "${record.name}" is ${VolumePhase[phase]}: ${message}`, {
      reason: "VOLUME_NOT_READY",
      metadata: { volume: record.name },
    });
  }

  /** Resolves when nobody holds a volume any more, or has taken too long to let go. */
  async #untilUnused(uid: string, signal: AbortSignal): Promise<void> {
    const deadline = Date.now() + stopWaitMs;
    while (this.#options.controller.holdersOf(uid).length > 0 && Date.now() < deadline)
      await sleep(50, undefined, { signal });
  }

  /** `base`, or with a number behind it when the volume has a snapshot of that name: two may be taken in a second. */
  #freeName(volumeUid: string, base: string): string {
    const taken = new Set(this.#options.store.snapshots.of(volumeUid).map(({ name }) => name));
    for (let i = 1; ; i++) {
      const name = i === 1 ? base : `${base}-${i}`;
      if (!taken.has(name)) return name;
    }
  }

  #scratch(): DiskId {
    const uid = newUid("d");
    return { name: scratchDisk(uid), uid };
  }

  #get(volume: VolumeRecord, name: string): SnapshotRecord {
    const found = this.#options.store.snapshots.get(volume.uid, name);
    if (found !== undefined && !found.deleting) return found;
    throw new CapsuleError(
      "notFound",
      `Volume "${volume.name}" has no snapshot "${name}". \`capsulectl volume snapshots ${volume.name}\` shows them.`,
      { reason: "NO_SNAPSHOT", metadata: { volume: volume.name, name } },
    );
  }

  #event(volume: VolumeRecord, reason: string, message: string, type: EventType = EventType.NORMAL): void {
    addEvent(this.#options.store, volume, { type, reason, message, time: this.#now() });
  }
}

async function diskOf(backend: PoolBackend, record: VolumeRecord): Promise<Disk> {
  const disk = (await backend.list()).find(({ uid }) => uid === record.diskUid);
  if (disk !== undefined) return disk;
  throw new CapsuleError("unavailable", `The disk of volume "${record.name}" is not in the pool.`);
}

/** UTC, such as 20261126-013000. */
export function stamp(date: Date): string {
  return date.toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "-");
}

function refuseExisting(record: VolumeRecord | undefined): void {
  if (record === undefined) return;
  throw new CapsuleError("conflict", `There is a volume "${record.name}" already. Choose another name.`, {
    reason: "VOLUME_EXISTS",
    metadata: { name: record.name },
  });
}

function exists(volume: string, name: string): CapsuleError {
  return new CapsuleError("conflict", `Volume "${volume}" has a snapshot "${name}" already. Choose another name.`, {
    reason: "SNAPSHOT_EXISTS",
    metadata: { volume, name },
  });
}

function invalidName(name: string): CapsuleError {
  const description = nameFault(name);
  return new CapsuleError("invalid", description, { violations: [{ path: "name", description }] });
}

/** `orElse`: what else may be done. */
export function inUse(volume: string, holders: readonly string[], orElse: string): CapsuleError {
  return new CapsuleError(
    "precondition",
    `Volume "${volume}" is in use by ${holders.join(", ") || "somebody"}. Stop that first${orElse}.`,
    { reason: "VOLUME_IN_USE", metadata: { volume, workload: holders[0] ?? "" } },
  );
}
