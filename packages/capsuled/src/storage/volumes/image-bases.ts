/**
 * Root disks of microVMs. An image is flattened once for each digest and platform into a base disk; each microVM's disk is
 * an instant copy of it that shares its blocks. Every disk is made in two phases around its row, as those of volumes; one
 * whose row says that it is being deleted goes with the next look. Work on one base or one root disk is serial.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { text } from "node:stream/consumers";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import { KeyedMutex } from "../../mutex.ts";
import type { ImageStore } from "../../runtime/images.ts";
import type { ImageBaseRecord } from "../../store/image-bases.ts";
import type { Store } from "../../store/store.ts";
import { newUid } from "../../store/uid.ts";
import { baseDisk, defaultPool, extentBytes, rootDisk, wholeExtents } from "../layout.ts";
import type { DiskId, PoolBackend } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";
import { formatExt4, growUnmounted, readSuperblock } from "../tools/ext4.ts";

const MiB = 1024 ** 2;
/** A base that nothing was made of for so long goes, if its image is still there; in milliseconds. */
const idleMs = 24 * 3_600_000;

export interface ImageBasesOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly images: Pick<ImageStore, "withRoot" | "list">;
  /** Keeps a disk from being taken for a leftover until what it returns is called (VolumeController.reserve). */
  readonly reserve: (diskUid: string) => () => void;
  readonly log: Logger;
  readonly now?: () => Date;
}

export interface RootDisk {
  /** A file or a block device with an ext4 filesystem. */
  readonly path: string;
  readonly sizeBytes: number;
}

export class ImageBases {
  readonly #options: ImageBasesOptions;
  readonly #now: () => Date;
  readonly #mutex = new KeyedMutex();

  constructor(options: ImageBasesOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => new Date());
  }

  /**
   * The root disk of a microVM, made of its image when it has none. One of another image is replaced. `sizeBytes` 0 is the
   * base's own size; a smaller one is not possible and is taken as that. Throws CapsuleError `notFound` or `precondition`
   * for an image that cannot be had, `exhausted` for a full pool.
   */
  async ensureRoot(owner: string, digest: string, sizeBytes: number, signal: AbortSignal): Promise<RootDisk> {
    return await this.#mutex.run(owner, async () => {
      const { imageBases } = this.#options.store;
      const found = imageBases.root(owner);
      if (found !== undefined && (found.deleting || found.digest !== digest)) await this.#removeRoot(owner);
      const backend = await this.#pool();
      if (imageBases.root(owner) === undefined) await this.#makeRoot(owner, digest, backend, signal);
      return await this.#readyRoot(owner, backend, sizeBytes);
    });
  }

  /** Removes the root disk of a microVM, if it has one. */
  async removeRoot(owner: string): Promise<void> {
    await this.#mutex.run(owner, () => this.#removeRoot(owner));
  }

  /** Removes what nobody needs: bases without root disks whose image is gone or that were long not used. */
  async collect(): Promise<void> {
    const { store, images, log } = this.#options;
    for (const { owner, deleting } of store.imageBases.roots()) {
      if (deleting || store.workloads.byUid(owner) === undefined) await this.removeRoot(owner);
    }
    const bases = store.imageBases.list();
    // The runtime is not asked for its images where nothing was made of any.
    if (bases.length === 0) return;
    const present = new Set((await images.list()).map(({ digest }) => digest));
    for (const base of bases) {
      await this.#mutex.run(keyOf(base.digest, base.platform), async () => {
        const used = store.imageBases.roots().some(({ digest }) => digest === base.digest);
        const isIdle = this.#now().getTime() - base.lastUsedAt.getTime() > idleMs;
        if (!base.deleting && (used || (present.has(base.digest) && !isIdle))) return;
        log.info({ digest: base.digest }, "removing the base of an image that nothing is made of");
        await this.#removeBase(base);
      });
    }
  }

  async #makeRoot(owner: string, digest: string, backend: PoolBackend, signal: AbortSignal): Promise<void> {
    const { store, reserve } = this.#options;
    const base = await this.#ensureBase(digest, backend, signal);
    const id = { name: rootDisk(owner), uid: newUid("d") };
    const release = reserve(id.uid);
    try {
      await this.#discardUnfinished(backend, id.name);
      await backend.snapshot(base, id);
      store.imageBases.insertRoot({ owner, diskUid: id.uid, digest });
    } finally {
      release();
    }
  }

  /** Makes the disk whole and as large as it is wanted: also when that was cut before. */
  async #readyRoot(owner: string, backend: PoolBackend, sizeBytes: number): Promise<RootDisk> {
    const record = this.#options.store.imageBases.root(owner);
    if (record === undefined) throw new CapsuleError("internal", `root disk of ${owner} is not in the store`);
    const id = { name: rootDisk(owner), uid: record.diskUid };
    const disk = (await backend.list()).find(({ uid }) => uid === id.uid);
    if (disk === undefined)
      throw new CapsuleError("precondition", "Its root disk is not in the pool any more. Recreate the microVM.", {
        reason: "DISK_MISSING",
      });
    if (!disk.whole) await backend.publish(id, id.name);
    const wanted = Math.max(wholeExtents(sizeBytes), disk.sizeBytes);
    await backend.grow(id, wanted);
    const path = await backend.pathOf(id);
    const filesystem = await readSuperblock(path);
    // A microVM that runs has it; it grows at the next start then.
    if (filesystem !== undefined && !filesystem.needsRecovery && filesystem.sizeBytes + extentBytes <= wanted)
      await growUnmounted(path, id.name);
    return { path, sizeBytes: wanted };
  }

  /** The base of an image; flattened now if there is none. One at a time for each image. */
  async #ensureBase(digest: string, backend: PoolBackend, signal: AbortSignal): Promise<DiskId> {
    const { store, images } = this.#options;
    return await images.withRoot(
      digest,
      async ({ directory, platform }) =>
        await this.#mutex.run(keyOf(digest, platform), async () => {
          const found = store.imageBases.get(digest, platform);
          const known = found?.deleting === false ? await this.#existing(found, backend) : undefined;
          if (found !== undefined && known === undefined) await this.#removeBase(found);
          const id = known ?? (await this.#flatten(digest, platform, directory, backend));
          store.imageBases.noteUse(id.uid, this.#now());
          return id;
        }),
      signal,
    );
  }

  /** Undefined when its disk is gone: it can be made again, for it holds nothing but the image. */
  async #existing({ digest, platform, diskUid }: ImageBaseRecord, backend: PoolBackend): Promise<DiskId | undefined> {
    const disk = (await backend.list()).find(({ uid }) => uid === diskUid);
    if (disk === undefined) return undefined;
    const name = baseDisk(keyOf(digest, platform));
    if (!disk.whole) await backend.publish(disk, name);
    return { name, uid: diskUid };
  }

  async #flatten(digest: string, platform: string, directory: string, backend: PoolBackend): Promise<DiskId> {
    const { store, reserve } = this.#options;
    const id = { name: baseDisk(keyOf(digest, platform)), uid: newUid("d") };
    const { files, bytes } = await measure(directory);
    // What is not written takes no room: half as much again, and some for the first steps of what runs.
    const sizeBytes = wholeExtents(bytes * 1.5 + files * 256 + 512 * MiB);
    const release = reserve(id.uid);
    try {
      await this.#discardUnfinished(backend, id.name);
      await backend.create(id, sizeBytes);
      const content = { directory, files };
      await formatExt4(await backend.pathOf(id), { label: "root", ownerUid: 0, ownerGid: 0, content });
      const lastUsedAt = this.#now();
      store.imageBases.insert({ digest, platform, diskUid: id.uid, sizeBytes, lastUsedAt });
      await backend.publish(id, id.name);
      return id;
    } finally {
      release();
    }
  }

  /** What a cut try has left has no row, and the name that is needed. */
  async #discardUnfinished(backend: PoolBackend, name: string): Promise<void> {
    for (const disk of await backend.list())
      if (disk.name === name && !disk.whole && !this.#options.store.imageBases.hasDisk(disk.uid))
        await backend.remove(disk);
  }

  async #removeRoot(owner: string): Promise<void> {
    const { imageBases } = this.#options.store;
    const record = imageBases.root(owner);
    if (record === undefined) return;
    imageBases.markRootDeleting(owner);
    await (await this.#pool()).remove({ name: rootDisk(owner), uid: record.diskUid });
    imageBases.removeRoot(owner);
  }

  async #removeBase({ digest, platform, diskUid }: ImageBaseRecord): Promise<void> {
    const { imageBases } = this.#options.store;
    imageBases.markDeleting(diskUid);
    await (await this.#pool()).remove({ name: baseDisk(keyOf(digest, platform)), uid: diskUid });
    imageBases.remove(diskUid);
  }

  async #pool(): Promise<PoolBackend> {
    const { pools, store } = this.#options;
    const kept = store.volumes.list().some(({ provisioned }) => provisioned);
    const backend = kept ? await pools.get(defaultPool).use() : await pools.get(defaultPool).open(true);
    if (backend === undefined) throw new CapsuleError("unavailable", "The pool is not there.");
    return backend;
  }
}

/** Part of a disk's name: of image and platform, short enough for LVM. */
function keyOf(digest: string, platform: string): string {
  return createHash("sha256").update(`${digest} ${platform}`).digest("hex").slice(0, 24);
}

/** Files of a tree, and the blocks of 4 KiB that they take. */
async function measure(directory: string): Promise<{ files: number; bytes: number }> {
  const child = spawn("find", [directory, "-xdev", "-exec", "stat", "-c", "%s", "{}", "+"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const sizes = (await text(child.stdout)).split("\n").filter((line) => line !== "");
  const bytes = sizes.reduce((sum, size) => sum + Math.ceil(Number(size) / 4096) * 4096, 0);
  return { files: sizes.length, bytes };
}
