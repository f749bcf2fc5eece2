/** The boot loader's part of an update, on both kinds of firmware: a slot that it cannot start is tried once, and no more. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { espOffset } from "../../image/disk/layout.ts";
import { diskPath } from "../../image/image.ts";
import { copyDisk, Machine } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";
import { editGrubenv, readGrubenv } from "../../packages/capsuled/src/update/grubenv.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-update-boot-"));
after(() => rmSync(dir, { recursive: true, force: true }));

for (const firmware of ["bios", "uefi"] as const)
  test(`${firmware}: a slot without a kernel is tried, and then the confirmed one is started`, {
    timeout: 300_000,
  }, async () => {
    const disk = join(dir, `${firmware}.raw`);
    const esp = `${disk}@@${espOffset}`;
    const block = join(dir, "grubenv");
    await copyDisk(diskPath, disk);
    await run(["mcopy", "-n", "-o", "-i", esp, "::/capsule/grubenv", block]);
    writeFileSync(block, editGrubenv(readFileSync(block), { capsule_try: "b", capsule_tries: "1" }));
    await run(["mcopy", "-o", "-i", esp, block, "::/capsule/grubenv"]);
    const machine = await Machine.start({
      ...{ dir: join(dir, firmware), disks: [disk], forwards: [], kvm: false, cpus: 1, temporary: true, firmware },
    });
    try {
      const console = await machine.untilConsole(/capsule-init: version/, 240_000);
      assert.match(console, /slot b cannot be started/);
      assert.doesNotMatch(console, /the version that runs is on trial/);
    } finally {
      await machine.cutPower();
    }
    await run(["mcopy", "-n", "-o", "-i", esp, "::/capsule/grubenv", block]);
    const left = readGrubenv(readFileSync(block));
    assert.deepEqual([left["capsule_slot"], left["capsule_try"], left["capsule_tries"]], ["a", "b", "0"]);
  });
