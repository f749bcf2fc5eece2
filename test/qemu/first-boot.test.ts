/** The power goes while the disk is made ready for the first time, at every step of it: the next boot goes on from there. */
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
/** A step takes about this long under emulation. */
const longestStepMs = 1_500;

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-first-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** Cuts the power within each step in turn, or within what follows it. */
async function cutAtEveryStep(disk: string): Promise<void> {
  const random = new Random(seed);
  for (const step of steps) {
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

test("a cut at every step of the first boot", { timeout: 900_000 }, async () => {
  console.log(`SEED=${seed}`);
  const host = await QemuHost.start({ dir: join(dir, "last"), prepare: cutAtEveryStep });
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
