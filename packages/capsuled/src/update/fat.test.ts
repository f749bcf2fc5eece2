/** Against filesystems that mkfs.vfat makes and mtools writes: as the image builder does. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { locate } from "./fat.ts";
import { Region } from "./region.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-fat-"));
const disk = join(dir, "esp");
const put = (name: string, content: Buffer): void => {
  writeFileSync(join(dir, "file"), content);
  execFileSync("mcopy", ["-o", "-i", disk, join(dir, "file"), `::${name}`]);
};
const get = (name: string): Buffer => execFileSync("mtype", ["-i", disk, `::${name}`], { maxBuffer: 64 * 1024 * 1024 });
const read = async (at: number, size: number): Promise<Buffer> => readFileSync(disk).subarray(at, at + size);

before(() => {
  writeFileSync(disk, "");
  truncateSync(disk, 36 * 1024 * 1024);
  execFileSync("mkfs.vfat", ["-F", "32", "-s", "1", "-n", "CAPSULEBOOT", disk]);
  execFileSync("mmd", ["-i", disk, "::/capsule", "::/capsule/a", "::/capsule/b"]);
});
after(() => rmSync(dir, { recursive: true }));

test("a file in pieces is found whole, and overwritten in place with nothing else changed", async () => {
  const content = randomBytes(300_001);
  // The disk is full but for gaps: what comes next has to be put there.
  const gaps = Array.from({ length: 20 }, (_, i) => `/gap${i}`);
  for (const name of gaps) put(name, randomBytes(40_000));
  const free = /([0-9 ]+) bytes free/.exec(execFileSync("mdir", ["-i", disk, "::"], { encoding: "utf8" }))?.[1] ?? "";
  put("/rest", Buffer.alloc(Number(free.replaceAll(" ", "")), 1));
  execFileSync("mdel", ["-i", disk, ...gaps.filter((_, i) => i % 2 === 0).map((name) => `::${name}`)]);
  put("/capsule/b/vmlinuz", content);
  const extents = await locate(read, "/capsule/b/vmlinuz");
  const region = new Region(disk, extents);
  assert.ok(extents.length > 1, "it is in pieces");
  assert.equal(region.sizeBytes, content.length);
  const opened = await region.open("write");
  assert.deepEqual(await opened.read(0, content.length), content);
  const other = randomBytes(content.length);
  const before = readFileSync(disk);
  await opened.write(other.subarray(0, 100_000), 0);
  await opened.write(other.subarray(100_000), 100_000);
  await opened.sync();
  await assert.rejects(opened.write(other.subarray(0, 2), content.length - 1), RangeError);
  await opened.close();
  assert.deepEqual(get("/capsule/b/vmlinuz"), other);
  const now = readFileSync(disk);
  for (const { startBytes, sizeBytes } of extents) before.copy(now, startBytes, startBytes, startBytes + sizeBytes);
  assert.ok(now.equals(before), "only its blocks were written");
  execFileSync("fsck.vfat", ["-n", disk]);
});

test("what is not there, and what is no filesystem, is told", async () => {
  await assert.rejects(locate(read, "/capsule/grubenv"), /no \/capsule\/grubenv.*not laid out/);
  await assert.rejects(locate(read, "/capsule/b/vmlinuz/more"), /through a file/);
  await assert.rejects(
    locate(async () => Buffer.alloc(512), "/capsule"),
    /first sector/,
  );
});
