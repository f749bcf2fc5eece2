/** A device that somebody else has open for a moment is not a damaged one. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repairExt4 } from "../../packages/capsuled/src/storage/tools/ext4.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-busy-"));
const image = join(dir, "disk.img");
execFileSync("truncate", ["-s", "16M", image]);
execFileSync("mke2fs", ["-q", "-t", "ext4", image]);
const device = execFileSync("losetup", ["--find", "--show", image], { encoding: "utf8" }).trim();

after(() => {
  execFileSync("losetup", ["-d", device]);
  rmSync(dir, { recursive: true, force: true });
});

test("a repair waits until it can have the device", { timeout: 30_000 }, async () => {
  const holder = await open(device, constants.O_RDWR | constants.O_EXCL);
  const repaired = repairExt4(device);
  await sleep(700);
  await holder.close();
  assert.equal((await repaired).state, "clean");
});

test("one that stays in use is told as that", { timeout: 30_000 }, async () => {
  const holder = await open(device, constants.O_RDWR | constants.O_EXCL);
  try {
    await assert.rejects(repairExt4(device), /is in use by something else/);
  } finally {
    await holder.close();
  }
});
