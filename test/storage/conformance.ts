/** What every backend of a pool must do. Runs against a real pool, as root; makes names of its own and removes them. */
import assert from "node:assert/strict";
import { type FileHandle, open } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { CapsuleError } from "../../packages/capsuled/src/errors.ts";
import type { Disk, DiskId, PoolBackend } from "../../packages/capsuled/src/storage/pool/backend.ts";
import {
  checkExt4,
  formatExt4,
  growMounted,
  growUnmounted,
  readSuperblock,
} from "../../packages/capsuled/src/storage/tools/ext4.ts";
import { isClaimed, mount, unmount } from "../../packages/capsuled/src/storage/tools/mount.ts";

const MiB = 1024 ** 2;
const size = 64 * MiB;

export function conformance(
  title: string,
  pool: { open: () => Promise<PoolBackend>; close: () => Promise<void>; scratch: string },
): void {
  describe(title, { concurrency: false }, () => {
    let backend: PoolBackend;
    let next = 0;
    const made: DiskId[] = [];
    const fresh = (kind = "vol"): DiskId => {
      const id = { name: `${kind}-t${next}`, uid: `d${process.pid}${next++}` };
      made.push(id);
      return id;
    };
    const seen = async ({ name, uid }: DiskId): Promise<Disk | undefined> =>
      (await backend.list()).find((disk) => disk.name === name && disk.uid === uid);
    const isKind = (kind: string) => (error: unknown) => error instanceof CapsuleError && error.kind === kind;

    before(async () => {
      backend = await pool.open();
    });
    after(async () => {
      for (const { uid } of made) {
        const left = (await backend.list()).find((disk) => disk.uid === uid);
        if (left !== undefined) await backend.remove(left);
      }
      await pool.close();
    });

    test("a new disk has its size, reads as zeros and is not whole until it is published", async () => {
      const id = fresh();
      await backend.create(id, size);
      const disk = await seen(id);
      assert.deepEqual([disk?.sizeBytes, disk?.whole], [size, false]);
      assert.ok((await read(await backend.pathOf(id), 0, MiB)).equals(Buffer.alloc(MiB)));
      await backend.publish(id, id.name);
      await backend.publish(id, id.name);
      assert.equal((await seen(id))?.whole, true);
    });

    test("a name is given once, a uid tells disks of one name apart, removing twice is removing once", async () => {
      const id = fresh();
      await backend.create(id, size);
      await assert.rejects(backend.create({ ...id, uid: "dother" }, size), isKind("conflict"));
      await assert.rejects(backend.snapshot(id, { ...id, uid: "dother" }), isKind("conflict"));
      await backend.remove({ ...id, uid: "dother" });
      assert.ok((await seen(id)) !== undefined, "another disk's uid removes nothing");
      await backend.remove(id);
      await backend.remove(id);
      assert.equal(await seen(id), undefined);
    });

    test("what is not there is said", async () => {
      const id = { name: "vol-absent", uid: "dabsent" };
      await assert.rejects(backend.pathOf(id), isKind("notFound"));
      await assert.rejects(backend.grow(id, size), isKind("notFound"));
      await assert.rejects(backend.publish(id, id.name), isKind("notFound"));
      await assert.rejects(backend.snapshot(id, fresh("snap")), isKind("notFound"));
    });

    test("a snapshot has what its origin had, and each goes on alone", async () => {
      const [id, copy] = [fresh(), fresh("snap")];
      await backend.create(id, size);
      const path = await backend.pathOf(id);
      await write(path, 5 * MiB, Buffer.alloc(MiB, "before"));
      await backend.snapshot(id, copy);
      assert.equal((await seen(copy))?.whole, false);
      await write(path, 5 * MiB, Buffer.alloc(MiB, "after"));
      assert.ok((await read(await backend.pathOf(copy), 5 * MiB, MiB)).equals(Buffer.alloc(MiB, "before")));
      await write(await backend.pathOf(copy), 9 * MiB, Buffer.alloc(MiB, "copy"));
      assert.ok((await read(path, 9 * MiB, MiB)).equals(Buffer.alloc(MiB)));
      await backend.remove(id);
      assert.ok((await read(await backend.pathOf(copy), 5 * MiB, MiB)).equals(Buffer.alloc(MiB, "before")));
    });

    test("a disk is published under another name, once", async () => {
      const [id, holder] = [fresh("next"), fresh()];
      await backend.create(id, size);
      await backend.create(holder, size);
      await assert.rejects(backend.publish(id, holder.name), isKind("conflict"));
      const renamed = { ...id, name: "vol-renamed" };
      await backend.publish(id, renamed.name);
      await backend.publish(id, renamed.name);
      assert.equal((await seen(renamed))?.whole, true);
      assert.equal(await seen(id), undefined);
    });

    test("it grows while it is mounted, and cannot be removed then", async () => {
      const id = fresh();
      await backend.create(id, size);
      await formatExt4(await backend.pathOf(id), { label: "t", ownerUid: 12, ownerGid: 34 });
      await backend.publish(id, id.name);
      const device = await backend.withDevice(id, async (block) => {
        await mount("ext4", "discard", block, pool.scratch);
        return block;
      });
      let grown = false;
      try {
        assert.equal(await isClaimed(device), true);
        await assert.rejects(backend.remove(id), isKind("conflict"));
        await backend.grow(id, 2 * size);
        await backend.grow(id, 2 * size);
        grown = await growMounted(device);
      } finally {
        await unmount(pool.scratch);
      }
      const path = await backend.pathOf(id);
      if (!grown) await growUnmounted(path, "t");
      assert.equal((await readSuperblock(path))?.sizeBytes, 2 * size);
      assert.equal((await seen(id))?.sizeBytes, 2 * size);
      assert.equal((await checkExt4(path)).state, "clean");
      await backend.remove(id);
    });

    test("a snapshot of a mounted filesystem is clean when the filesystem was at rest", async () => {
      const [id, copy] = [fresh(), fresh("snap")];
      await backend.create(id, size);
      await formatExt4(await backend.pathOf(id), { label: "t", ownerUid: 0, ownerGid: 0 });
      await backend.withDevice(id, (block) => mount("ext4", "discard", block, pool.scratch));
      try {
        await write(`${pool.scratch}/file`, 0, Buffer.alloc(3 * MiB, "x"), "w");
        const { withFrozen } = await import("../../packages/capsuled/src/storage/tools/freeze.ts");
        if (backend.snapshotFreezes) await backend.snapshot(id, copy);
        else await withFrozen(pool.scratch, () => backend.snapshot(id, copy));
        await write(`${pool.scratch}/after`, 0, Buffer.alloc(MiB), "w");
      } finally {
        await unmount(pool.scratch);
      }
      const path = await backend.pathOf(copy);
      assert.equal((await readSuperblock(path))?.needsRecovery, false);
      assert.equal((await checkExt4(path)).state, "clean");
    });

    test("usage grows with what is written", async () => {
      const before = await backend.usage();
      const id = fresh();
      await backend.create(id, size);
      await write(await backend.pathOf(id), 0, Buffer.alloc(32 * MiB, "u"));
      const after = await backend.usage();
      assert.ok(after.usedBytes - before.usedBytes >= 30 * MiB, `${before.usedBytes} → ${after.usedBytes}`);
      assert.ok(after.sizeBytes >= after.usedBytes);
      assert.ok(((await seen(id))?.usedBytes ?? 0) >= 30 * MiB);
    });

    test("what a snapshot has alone is told", async () => {
      const [id, copy] = [fresh(), fresh("snap")];
      await backend.create(id, size);
      const path = await backend.pathOf(id);
      await write(path, 0, Buffer.alloc(16 * MiB, "a"));
      await backend.snapshot(id, copy);
      assert.equal(await backend.exclusiveBytes(copy), 0);
      await write(path, 0, Buffer.alloc(4 * MiB, "b"));
      assert.equal(await backend.exclusiveBytes(copy), 4 * MiB);
    });
  });
}

async function using<T>(path: string, flags: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags);
  return await work(file).finally(() => file.close());
}

async function read(path: string, at: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  await using(path, "r", (file) => file.read(buffer, 0, length, at));
  return buffer;
}

async function write(path: string, at: number, data: Buffer, flags = "r+"): Promise<void> {
  await using(path, flags, async (file) => {
    await file.write(data, 0, data.length, at);
    await file.sync();
  });
}
