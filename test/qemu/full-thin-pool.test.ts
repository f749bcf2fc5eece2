/** A thin pool that is nearly full and cannot grow: what an operator does then still works. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { askAgainMs, TestCapsule } from "../support/test-capsule.ts";
import { type PoolJson, poolOf, readWitness, writeWitness } from "../support/volumes.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.startMachine("tfull", ["busybox"]);
});
after(async () => await capsule?.stop());

const pool = (): Promise<PoolJson> => poolOf(capsule);
const fill = async (): Promise<number> => {
  const { usedBytes, sizeBytes } = await pool();
  return Number(usedBytes) / Number(sizeBytes);
};

test("snapshots, restores, exports and checks work in a pool that is 85 % full", { timeout: 900_000 }, async () => {
  await capsule.ctl(["volume", "create", "data", "--size", "64MiB"]);
  await writeWitness(capsule, "data", "precious");
  // Nothing is left by which the pool could grow.
  await capsule.host.exec(["lvm", "lvcreate", "--yes", "-n", "filler", "-l", "100%FREE", "capsule"]);
  const mib = Math.floor(Number((await pool()).sizeBytes) / 1024 ** 2);
  await capsule.ctl(["volume", "create", "ballast", "--size", `${mib}MiB`]);
  const write = `dd if=/dev/zero of=/dev/capsule/vol-ballast bs=1M count=${Math.floor(mib * 0.85)} oflag=direct`;
  await capsule.host.exec(["sh", "-c", `${write} >/dev/null 2>&1 </dev/null &`]);
  const deadline = Date.now() + 600_000;
  while ((await fill()) < 0.84) {
    assert.ok(Date.now() < deadline, `${await fill()}`);
    await sleep(askAgainMs);
  }
  assert.match((await pool()).message, /is 8[0-9] % full/);
  await capsule.ctl(["volume", "snapshot", "data", "late"]);
  await capsule.ctl(["volume", "restore", "data", "late", "--as", "copy"]);
  assert.equal(await readWitness(capsule, "copy"), "precious");
  const file = join(capsule.dir, "export.zst");
  await capsule.ctl(["volume", "export", "data", file]);
  assert.ok(statSync(file).size > 0);
  assert.match(await capsule.ctl(["volume", "check", "data"]), /clean/);
  await capsule.ctl(["volume", "delete", "ballast"]);
  assert.ok((await fill()) < 0.5);
});
