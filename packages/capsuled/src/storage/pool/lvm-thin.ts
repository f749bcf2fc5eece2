/**
 * A pool on a real disk: the thin pool `pool` of the group `capsule` (lvmthin(7)), which storage/substrate has made. A
 * disk is a thin volume; its tags hold its uid and whether it is whole, so the disk tells of itself wherever it is moved.
 */
import { existsSync } from "node:fs";
import { CapsuleError } from "../../errors.ts";
import { ToolError } from "../../tool.ts";
import { groupName, thinPoolName, wholeTag } from "../layout.ts";
import { type LogicalVolume, Lvm } from "../tools/lvm.ts";
import { exclusiveBytesByThinId, metadataWrites } from "../tools/thin-pool.ts";
import type { Disk, DiskId, PoolBackend, PoolUsage } from "./backend.ts";
import { diskInUse, nameTaken, noDisk, poolFull } from "./errors.ts";

const uidTag = "capsule_uid_";
/** How old a look at the group may be, in milliseconds: only this backend changes its disks. */
const freshMs = 2_000;

/** What each thin volume has alone, by its id in the pool; asked `at`, when so many `writes` to the metadata had been made. */
interface Exclusive {
  readonly at: number;
  readonly writes: number | undefined;
  readonly byThinId: ReadonlyMap<number, number>;
}

export class LvmThinBackend implements PoolBackend {
  readonly kind = "lvm-thin";
  /** Device-mapper suspends the origin, which freezes the filesystem on it (dm's lock_fs). */
  readonly snapshotFreezes = true;
  readonly #device: () => Promise<string>;
  #opened: Lvm | undefined;
  /** The last look, until something is changed here or it is old: LVM reads the disk each time, and a pass asks often. */
  #seen: { readonly at: number; readonly volumes: Promise<LogicalVolume[]> } | undefined;
  /** The last answer to how full the pool is, and the writes to its metadata until then. */
  #usage: { readonly writes: number | undefined; readonly usage: PoolUsage } | undefined;
  /** The last answer to what each has alone. */
  #asked: Promise<Exclusive> | undefined;

  /** `device` finds the physical volume; it throws where there is none, which is told when the pool is used. */
  constructor(device: () => Promise<string>) {
    this.#device = device;
  }

  async open(): Promise<"open" | "absent"> {
    const pool = (await (await this.#lvm()).volumes()).find(({ name }) => name === thinPoolName);
    if (pool === undefined) {
      throw new CapsuleError(
        "precondition",
        `The volume group ${groupName} has no thin pool: the disk was too small for one. A larger disk gets one at the next boot.`,
        { reason: "NO_POOL" },
      );
    }
    return "open";
  }

  async usage(): Promise<PoolUsage> {
    const writes = await metadataWrites();
    // Asked from time to time: no process is started while nothing changes.
    if (this.#usage !== undefined && writes !== undefined && this.#usage.writes === writes) return this.#usage.usage;
    this.#seen = undefined;
    const pool = (await this.#volumes()).find(({ name }) => name === thinPoolName);
    if (pool === undefined) throw noDisk({ name: thinPoolName, uid: "" });
    const { sizeBytes, dataRatio, metadataRatio } = pool;
    const usage = { sizeBytes, usedBytes: Math.round(sizeBytes * dataRatio), metadataRatio };
    this.#usage = { writes, usage };
    return usage;
  }

  async list(): Promise<readonly Disk[]> {
    return (await this.#volumes()).map(diskOf).filter((disk) => disk !== undefined);
  }

  async create(id: DiskId, sizeBytes: number): Promise<void> {
    await this.#refuseTaken(id);
    await this.#making((lvm) => lvm.createThin(thinPoolName, id.name, sizeBytes, [uidTag + id.uid]));
  }

  async snapshot(from: DiskId, to: DiskId): Promise<void> {
    await this.#refuseTaken(to);
    await this.#existing(from);
    await this.#making((lvm) => lvm.snapshotThin(from.name, to.name, [uidTag + to.uid]));
  }

  async publish(id: DiskId, name: string): Promise<void> {
    const all = await this.list();
    const present = all.find((disk) => disk.uid === id.uid && (disk.name === id.name || disk.name === name));
    if (present === undefined) throw noDisk(id);
    if (present.name !== name) {
      const holder = all.find((disk) => disk.name === name);
      if (holder !== undefined) throw nameTaken({ ...id, name }, holder);
      await this.#changing((lvm) => lvm.rename(present.name, name));
    }
    if (!present.whole) await this.#changing((lvm) => lvm.addTag(name, wholeTag));
    // A volume is there after each boot; a snapshot only when somebody needs it.
    if (name.startsWith("vol-")) await (await this.#lvm()).setSkipped(name, false);
  }

  async grow(id: DiskId, sizeBytes: number): Promise<void> {
    if ((await this.#existing(id)).sizeBytes < sizeBytes) await this.#changing((lvm) => lvm.extend(id.name, sizeBytes));
  }

  async remove(id: DiskId): Promise<void> {
    const all = await (await this.#lvm()).volumes();
    const found = all.find((volume) => volume.name === id.name && volume.tags.includes(uidTag + id.uid));
    if (found === undefined) return;
    if (found.isOpen) throw diskInUse(id);
    try {
      await this.#changing((lvm) => lvm.remove(id.name));
    } catch (error) {
      // "Logical volume capsule/vol-x in use." of lvremove: opened in between.
      if (error instanceof ToolError && /in use|is used by/i.test(error.stderr)) throw diskInUse(id, error);
      throw error;
    }
  }

  async pathOf(id: DiskId): Promise<string> {
    await this.#existing(id);
    const path = `/dev/${groupName}/${id.name}`;
    if (!existsSync(path)) await (await this.#lvm()).activateVolume(id.name);
    return path;
  }

  async withDevice<T>(id: DiskId, work: (device: string) => Promise<T>): Promise<T> {
    return await work(await this.pathOf(id));
  }

  async exclusiveBytes(id: DiskId): Promise<number | undefined> {
    await this.#existing(id);
    const found = (await this.#volumes()).find(({ name }) => name === id.name);
    return (await this.#exclusive()).get(found?.thinId ?? Number.NaN);
  }

  /** Of all thin volumes: a list of snapshots asks for one after the other. */
  async #exclusive(): Promise<ReadonlyMap<number, number>> {
    const before = this.#asked;
    // One after the other: each uses the pool's only snapshot of its metadata.
    this.#asked = (async () => {
      const last = await before?.catch(() => undefined);
      const isFresh = last !== undefined && performance.now() - last.at < freshMs;
      if (isFresh && last.writes === (await metadataWrites())) return last;
      const at = performance.now();
      const byThinId = await exclusiveBytesByThinId();
      // Asking writes to the metadata too.
      return { at, byThinId, writes: await metadataWrites() };
    })();
    return (await this.#asked).byThinId;
  }

  async #lvm(): Promise<Lvm> {
    this.#opened ??= new Lvm(await this.#device());
    return this.#opened;
  }

  async #volumes(): Promise<LogicalVolume[]> {
    const now = performance.now();
    if (this.#seen === undefined || now - this.#seen.at > freshMs)
      this.#seen = { at: now, volumes: this.#lvm().then((lvm) => lvm.volumes()) };
    const seen = this.#seen;
    try {
      return await seen.volumes;
    } catch (error) {
      if (this.#seen === seen) this.#seen = undefined;
      throw error;
    }
  }

  async #changing(change: (lvm: Lvm) => Promise<void>): Promise<void> {
    try {
      await change(await this.#lvm());
    } finally {
      this.#seen = undefined;
    }
  }

  async #making(make: (lvm: Lvm) => Promise<void>): Promise<void> {
    try {
      await this.#changing(make);
    } catch (error) {
      // Words of lvcreate for a pool without any room (pool_below_threshold).
      if (error instanceof ToolError && /reached threshold|above threshold/i.test(error.stderr)) throw poolFull(error);
      throw error;
    }
  }

  async #existing(id: DiskId): Promise<Disk> {
    const found = (await this.list()).find(({ name, uid }) => name === id.name && uid === id.uid);
    if (found === undefined) throw noDisk(id);
    return found;
  }

  async #refuseTaken(id: DiskId): Promise<void> {
    const taken = (await this.#volumes()).find(({ name }) => name === id.name);
    if (taken !== undefined) throw nameTaken(id, { name: id.name, uid: diskOf(taken)?.uid ?? "not the capsule's" });
  }
}

function diskOf({ name, tags, isThin, sizeBytes, dataRatio }: LogicalVolume): Disk | undefined {
  const uid = tags.find((tag) => tag.startsWith(uidTag))?.slice(uidTag.length);
  if (!isThin || uid === undefined) return undefined;
  return { name, uid, whole: tags.includes(wholeTag), sizeBytes, usedBytes: Math.round(sizeBytes * dataRatio) };
}
