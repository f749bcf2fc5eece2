/**
 * A pool without device-mapper: an XFS with reflinks in one sparse file, and in it a raw image file for each disk, copied
 * by FICLONE (ioctl_ficlone(2)). A disk's name and uid are its file's name, `new/` or `disks/` whether it is whole: one
 * rename each, so no cut leaves one in between.
 */
import { constants, existsSync } from "node:fs";
import { copyFile, mkdir, open, readdir, rename, rm, stat, statfs, truncate } from "node:fs/promises";
import { dirname, join } from "node:path";
import { mayCrash } from "../../crash-point.ts";
import { syncDirectory } from "../../durable.ts";
import { CapsuleError } from "../../errors.ts";
import { poolFile, poolMount } from "../layout.ts";
import { exclusiveBytesOf } from "../tools/filefrag.ts";
import { detachAllOn, devicesOn, refreshSize, withLoop } from "../tools/loop.ts";
import { isMounted, mount } from "../tools/mount.ts";
import { formatXfs, minXfsBytes } from "../tools/xfs.ts";
import type { Disk, DiskId, PoolBackend, PoolUsage } from "./backend.ts";
import { diskInUse, nameTaken, noDisk } from "./errors.ts";

const GiB = 1024 ** 3;
/** Of the space that is free when the pool is made. It is sparse: what it takes in fact is what its volumes hold. */
const shareOfFree = 0.8;
/** A pool must leave the capsule's own database and images something, whatever its volumes hold. */
const maxPoolBytes = 16 * 1024 * GiB;
const form = /^([a-z0-9-]+)@([a-z0-9]+)\.img$/;

export interface ReflinkOptions {
  readonly pool: string;
  /** Path of the pool's file and of its mount. Those of layout.ts unless told. */
  readonly file?: string;
  readonly mountPath?: string;
  /** Size of the pool when it is made; 80 % of what is free when absent. */
  readonly sizeBytes?: number;
}

export class ReflinkBackend implements PoolBackend {
  readonly kind = "reflink";
  readonly snapshotFreezes = false;
  readonly #file: string;
  readonly #mount: string;
  readonly #sizeBytes: number | undefined;

  constructor({ pool, file = poolFile(pool), mountPath = poolMount(pool), sizeBytes }: ReflinkOptions) {
    this.#file = file;
    this.#mount = mountPath;
    this.#sizeBytes = sizeBytes;
  }

  async open(create: boolean): Promise<"open" | "absent"> {
    if (!(await isMounted(this.#mount))) {
      if (!existsSync(this.#file)) {
        if (!create) return "absent";
        await this.#make();
      }
      await mkdir(this.#mount, { recursive: true, mode: 0o700 });
      await withLoop(this.#file, (device) => mount("xfs", "noatime,discard,nosuid,nodev,noexec", device, this.#mount));
    }
    for (const name of ["new", "disks"]) await mkdir(join(this.#mount, name), { recursive: true, mode: 0o700 });
    await detachAllOn(this.#mount);
    return "open";
  }

  async usage(): Promise<PoolUsage> {
    if (!(await isMounted(this.#mount))) return await this.#prospect();
    const [own, host] = await Promise.all([statfs(this.#mount), statfs(dirname(this.#file))]);
    const usedBytes = (own.blocks - own.bfree) * own.bsize;
    // What the file may still take of its own filesystem counts too: others fill that as well.
    const freeBytes = Math.min(own.bavail * own.bsize, host.bavail * host.bsize);
    return { sizeBytes: usedBytes + freeBytes, usedBytes, metadataRatio: 0 };
  }

  async list(): Promise<readonly Disk[]> {
    const found = await Promise.all(
      (["new", "disks"] as const).map(async (directory) => {
        const names = await readdir(join(this.#mount, directory));
        return await Promise.all(names.map((file) => this.#diskOf(directory, file)));
      }),
    );
    return found.flat().filter((disk) => disk !== undefined);
  }

  async create(id: DiskId, sizeBytes: number): Promise<void> {
    await this.#refuseTaken(id);
    const path = this.#path("new", id);
    const file = await open(path, "w", 0o600);
    try {
      await file.truncate(sizeBytes);
      mayCrash();
      await file.sync();
    } finally {
      await file.close();
    }
    await syncDirectory(dirname(path));
  }

  async snapshot(from: DiskId, to: DiskId): Promise<void> {
    await this.#refuseTaken(to);
    const path = this.#path("new", to);
    await copyFile(await this.#existing(from), path, constants.COPYFILE_FICLONE_FORCE);
    mayCrash();
    const file = await open(path, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await syncDirectory(dirname(path));
  }

  async publish(id: DiskId, name: string): Promise<void> {
    const target = this.#path("disks", { ...id, name });
    const present = await this.#find(id);
    if (present === target) return;
    if (name !== id.name || present === undefined) {
      // Called again after it was done: it has the new name then.
      if (existsSync(target)) return;
    }
    if (present === undefined) throw noDisk(id);
    await this.#refuseTaken({ ...id, name }, id.uid);
    await rename(present, target);
    mayCrash();
    await syncDirectory(dirname(target));
    await syncDirectory(dirname(present));
  }

  async grow(id: DiskId, sizeBytes: number): Promise<void> {
    const path = await this.#existing(id);
    if ((await stat(path)).size < sizeBytes) {
      await truncate(path, sizeBytes);
      mayCrash();
      const file = await open(path, "r+");
      await file.sync().finally(() => file.close());
    }
    // Also when the size was right: a cut may have come in between.
    await refreshSize(path);
  }

  async remove(id: DiskId): Promise<void> {
    const path = await this.#find(id);
    if (path === undefined) return;
    if ((await devicesOn(path)).length > 0) throw diskInUse(id);
    const file = await open(path, "r+");
    try {
      await rm(path);
      mayCrash();
      await syncDirectory(dirname(path));
      // XFS frees the blocks of a file without a name only some time later; whoever writes next may need them now.
      await file.truncate(0);
    } finally {
      await file.close();
    }
  }

  async pathOf(id: DiskId): Promise<string> {
    return await this.#existing(id);
  }

  async withDevice<T>(id: DiskId, work: (device: string) => Promise<T>): Promise<T> {
    return await withLoop(await this.#existing(id), work);
  }

  async exclusiveBytes(id: DiskId): Promise<number | undefined> {
    return await exclusiveBytesOf(await this.#existing(id));
  }

  /** What a pool that has never been made would be. */
  async #prospect(): Promise<PoolUsage> {
    await mkdir(dirname(this.#file), { recursive: true, mode: 0o700 });
    const { bavail, bsize } = await statfs(dirname(this.#file));
    const sizeBytes = this.#sizeBytes ?? Math.min(maxPoolBytes, Math.floor(bavail * bsize * shareOfFree));
    return { sizeBytes, usedBytes: 0, metadataRatio: 0 };
  }

  /** Beside, then into place: a file at its place is a whole XFS. */
  async #make(): Promise<void> {
    const dir = dirname(this.#file);
    const { sizeBytes } = await this.#prospect();
    if (sizeBytes < minXfsBytes) {
      throw new CapsuleError(
        "exhausted",
        `${dir} has room for a pool of ${Math.floor(sizeBytes / 1024 ** 2)} MiB; a pool for volumes needs 300 MiB. Make room: \`capsulectl image prune\` removes images that nothing uses.`,
        { reason: "NO_ROOM_FOR_POOL" },
      );
    }
    const scratch = `${this.#file}.new`;
    await rm(scratch, { force: true });
    const file = await open(scratch, "wx", 0o600);
    try {
      await file.truncate(sizeBytes);
      await formatXfs(scratch);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(scratch, this.#file);
    await syncDirectory(dir);
  }

  #path(directory: "new" | "disks", { name, uid }: DiskId): string {
    return join(this.#mount, directory, `${name}@${uid}.img`);
  }

  async #diskOf(directory: "new" | "disks", file: string): Promise<Disk | undefined> {
    const [, name, uid] = form.exec(file) ?? [];
    if (name === undefined || uid === undefined) return undefined;
    const seen = await stat(join(this.#mount, directory, file)).catch(() => undefined);
    if (seen === undefined) return undefined;
    return { name, uid, whole: directory === "disks", sizeBytes: seen.size, usedBytes: seen.blocks * 512 };
  }

  async #find(id: DiskId): Promise<string | undefined> {
    return [this.#path("disks", id), this.#path("new", id)].find((path) => existsSync(path));
  }

  async #existing(id: DiskId): Promise<string> {
    const path = await this.#find(id);
    if (path === undefined) throw noDisk(id);
    return path;
  }

  async #refuseTaken(id: DiskId, butUid?: string): Promise<void> {
    const taken = (await this.list()).find(({ name, uid }) => name === id.name && uid !== butUid);
    if (taken !== undefined) throw nameTaken(id, taken);
  }
}
