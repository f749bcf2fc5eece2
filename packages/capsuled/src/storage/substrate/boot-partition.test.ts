import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { diskSignature } from "../../../../../image/disk/layout.ts";
import { giveVolumeId } from "./boot-partition.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-boot-partition-"));
after(() => rmSync(dir, { recursive: true }));

test("the image's id becomes the disk's own, once, in both places, and nothing else changes", async () => {
  const [path, fat, at] = [join(dir, "disk"), join(dir, "fat"), 1024 ** 2];
  writeFileSync(fat, "");
  truncateSync(fat, 48 * 1024 ** 2);
  execFileSync("mkfs.vfat", ["--invariant", "-F", "32", "-s", "1", "-i", diskSignature, fat], { stdio: "ignore" });
  writeFileSync(path, Buffer.concat([Buffer.alloc(at), readFileSync(fat)]));
  const before = readFileSync(path);
  await giveVolumeId(path, at);
  const own = readFileSync(path);
  const id = own.subarray(at + 67, at + 71);
  assert.notEqual(id.readUInt32LE().toString(16), diskSignature);
  for (const sector of [0, 6]) id.copy(before, at + sector * 512 + 67);
  assert.ok(own.equals(before));
  await giveVolumeId(path, at);
  assert.ok(readFileSync(path).equals(own), "the second time it has one");
});
