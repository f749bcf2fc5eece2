/** Runs inside a capsule (test/suite/image-bases.test.ts), as root, beside capsuled, with a pool and a database of its own. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { after, before, test } from "node:test";
import { pino } from "pino";
import { openContainerd } from "../../packages/capsuled/src/runtime/container/index.ts";
import type { ImageStore } from "../../packages/capsuled/src/runtime/images.ts";
import { Pool, Pools } from "../../packages/capsuled/src/storage/pool/pools.ts";
import { ReflinkBackend } from "../../packages/capsuled/src/storage/pool/reflink.ts";
import { checkExt4 } from "../../packages/capsuled/src/storage/tools/ext4.ts";
import { unmount } from "../../packages/capsuled/src/storage/tools/mount.ts";
import { ImageBases } from "../../packages/capsuled/src/storage/volumes/image-bases.ts";
import { Store } from "../../packages/capsuled/src/store/store.ts";

const dir = "/perm/bases-test";
const log = pino({ level: "warn" });
const signal = AbortSignal.timeout(120_000);
let store: Store;
let backend: ReflinkBackend;
let images: ImageStore;
let digest: string;
let bases: ImageBases;
let views = 0;

before(async () => {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(`${dir}/mnt`, { recursive: true });
  store = new Store(`${dir}/state.db`);
  backend = new ReflinkBackend({
    pool: "default",
    file: `${dir}/pool.img`,
    mountPath: `${dir}/pool`,
    sizeBytes: 4 * 1024 ** 3,
  });
  ({ images } = await openContainerd({ socket: "/run/containerd/containerd.sock", log }));
  digest = (await images.find("docker.io/library/busybox:1"))?.digest ?? "";
  bases = make();
});
after(async () => {
  store.close();
  await unmount(`${dir}/pool`);
  rmSync(dir, { recursive: true });
  // What was opened to containerd keeps the program.
  setTimeout(() => process.exit(), 200).unref();
});

function make(): ImageBases {
  const counted: Pick<ImageStore, "withRoot" | "list"> = {
    list: (given) => images.list(given),
    withRoot: (of, work, given) => {
      views++;
      return images.withRoot(of, work, given);
    },
  };
  const pools = new Pools([new Pool("default", backend)]);
  return new ImageBases({ store, pools, images: counted, reserve: () => () => undefined, log });
}

const names = async (): Promise<string[]> => (await backend.list()).map(({ name }) => name).sort();

test("ten at once flatten the image once, and share its blocks", async () => {
  await backend.open(true);
  const empty = await backend.usage();
  const roots = await Promise.all(Array.from({ length: 10 }, (_, i) => bases.ensureRoot(`w${i}`, digest, 0, signal)));
  assert.equal(new Set(roots.map(({ path }) => path)).size, 10);
  const found = await names();
  assert.equal(found.filter((name) => name.startsWith("base-")).length, 1);
  assert.equal(found.filter((name) => name.startsWith("root-")).length, 10);
  const usedBytes = (await backend.usage()).usedBytes - empty.usedBytes;
  const base = (await backend.list()).find(({ name }) => name.startsWith("base-"));
  assert.ok(usedBytes < 2 * (base?.usedBytes ?? 0) + 1024 ** 2, `${usedBytes} of ${base?.usedBytes}`);
});

test("the next one is there at once, without a copy", async () => {
  const started = performance.now();
  await bases.ensureRoot("w10", digest, 0, signal);
  console.log(`another root disk: ${Math.round(performance.now() - started)} ms`);
});

test("it holds the image, with owners, modes and links, and is sound", async () => {
  const { path } = await bases.ensureRoot("w1", digest, 0, signal);
  assert.equal((await checkExt4(path)).state, "clean");
  execFileSync("mount", ["-o", "loop,ro", path, `${dir}/mnt`]);
  try {
    const list = (root: string): string =>
      execFileSync("sh", [
        "-c",
        `cd ${root} && find . -xdev ! -name lost+found ! -path . -exec stat -c '%n %a %u:%g %F %h' {} + | grep -v ' directory ' | sort`,
      ]).toString();
    const ours = list(`${dir}/mnt`);
    const theirs = await images.withRoot(digest, async ({ directory }) => list(directory), signal);
    assert.equal(ours, theirs);
    assert.ok(ours.length > 100);
  } finally {
    execFileSync("umount", [`${dir}/mnt`]);
  }
});

test("it is as large as it is asked to be, and stays as it is when it is asked for again", async () => {
  const larger = await bases.ensureRoot("w2", digest, 2 * 1024 ** 3, signal);
  assert.equal(larger.sizeBytes, 2 * 1024 ** 3);
  assert.equal((await checkExt4(larger.path)).state, "clean");
  const before = views;
  assert.deepEqual(await bases.ensureRoot("w2", digest, 0, signal), larger);
  assert.equal(views, before, "the image is not looked at");
});

test("what was cut is made again, or finished", async () => {
  // Cut before its row: the name is taken by what is not whole.
  const base = (await backend.list()).find(({ name }) => name.startsWith("base-"));
  assert.ok(base !== undefined);
  await backend.snapshot(base, { name: "root-w20", uid: "dcut" });
  const first = await bases.ensureRoot("w20", digest, 0, signal);
  assert.ok(!first.path.includes("dcut"));
  // Cut after its row.
  await backend.snapshot(base, { name: "root-w21", uid: "dcut2" });
  store.imageBases.insertRoot({ owner: "w21", diskUid: "dcut2", digest });
  await bases.ensureRoot("w21", digest, 0, signal);
  assert.equal((await backend.list()).find(({ uid }) => uid === "dcut2")?.whole, true);
  // A base that was lost is flattened again: it holds nothing but the image.
  await backend.remove(base);
  bases = make();
  await bases.ensureRoot("w22", digest, 0, signal);
  assert.equal((await names()).filter((name) => name.startsWith("base-")).length, 1);
});

test("what nobody needs goes, and an image that is gone takes its base along", async () => {
  await assert.rejects(bases.ensureRoot("w30", `sha256:${"0".repeat(64)}`, 0, signal));
  await bases.removeRoot("w1");
  await bases.removeRoot("w1");
  assert.ok(!(await names()).includes("root-w1"));
  // No workload of this database has these uids: all root disks are nobody's.
  await bases.collect();
  assert.deepEqual(
    (await names()).filter((name) => name.startsWith("root-")),
    [],
  );
  assert.equal((await names()).length, 1, "the base of an image that is there stays a while");
  const later = { now: () => new Date(Date.now() + 48 * 3_600_000) };
  const pools = new Pools([new Pool("default", backend)]);
  await new ImageBases({ store, pools, images, reserve: () => () => undefined, log, ...later }).collect();
  assert.deepEqual(await names(), []);
  assert.deepEqual(store.imageBases.list(), []);
});
