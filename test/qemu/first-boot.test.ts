/**
 * The power goes while the disk is made ready for the first time, at two steps of it, by ALL=1 at every one: the next boot
 * goes on from there. With SEED=n.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Machine } from "../../image/qemu/machine.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
/** As the console names them (storage/substrate/plan.ts), in their order on a blank disk. */
const steps = ["createPhysicalVolume", "createGroup", "createPerm", "formatPerm", "createPool"] as const;
const sampleSize = process.env["ALL"] === "1" ? steps.length : 2;
/** A step takes about this long under emulation. */
const longestStepMs = 1_500;

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-first-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** Cuts the power within steps in their order, or within what follows them. */
async function cutAtSteps(disk: string): Promise<void> {
  const random = new Random(seed);
  const chosen = new Set<(typeof steps)[number]>();
  while (chosen.size < sampleSize) chosen.add(random.pick(steps));
  for (const step of steps.filter((one) => chosen.has(one))) {
    // A directory each: the console of a boot must not be taken for that of the one before.
    const machine = await Machine.start({
      dir: join(dir, step),
      disks: [disk],
      forwards: [],
      kvm: false,
      temporary: true,
    });
    await machine.untilConsole(new RegExp(`capsule: disk: ${step}`), 180_000);
    await sleep(random.below(longestStepMs));
    await machine.cutPower();
    assert.doesNotMatch(machine.console(), /Kernel panic|was not touched|left as it is/);
  }
}

test(`a cut at ${sampleSize} steps of the first boot`, { timeout: 900_000 }, async () => {
  console.log(`SEED=${seed}`);
  const host = await QemuHost.start({ dir: join(dir, "last"), prepare: cutAtSteps });
  const capsule = await TestCapsule.on(host, join(dir, "last"), []);
  try {
    const mounts = await host.exec(["cat", "/proc/mounts"]);
    assert.match(mounts, /^\/dev\/mapper\/capsule-perm \/perm ext4 /m);
    const volumes = await host.exec(["lvm", "lvs", "-a", "--noheadings", "-o", "lv_name,lv_tags", "capsule"]);
    assert.match(volumes, /perm +capsule_whole/);
    assert.match(volumes, /pool +capsule_whole/);
    // LVM's own parts of the pool are in brackets; anything else was left behind by a cut.
    const others = volumes.split("\n").filter((line) => line.trim() !== "" && !/^ *(perm|pool|\[.*\])( |$)/.test(line));
    assert.deepEqual(others, []);
    const info = JSON.parse(await capsule.ctl(["capsule", "info", "-o", "json"])) as { warnings: string[] };
    assert.deepEqual(info.warnings, []);
  } finally {
    await capsule.stop();
  }
});
