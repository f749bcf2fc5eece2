/** When a stick is no installer: it was told so, and then because a capsule runs from it. By BIOS, which starts from USB too. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { espOffset } from "../../image/disk/layout.ts";
import { diskPath } from "../../image/image.ts";
import { copyDisk, Machine } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";
import { editGrubenv } from "../../packages/capsuled/src/update/grubenv.ts";

let dir: string;
const stick = (): string => join(dir, "stick.raw");
const disk = (): string => join(dir, "disk.raw");
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-mode-"));
  await copyDisk(diskPath, stick());
  writeFileSync(disk(), "");
  truncateSync(disk(), 6 * 1024 ** 3);
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** As a person does with grub-editenv. */
async function tell(mode: string | undefined): Promise<void> {
  const esp = `${stick()}@@${espOffset}`;
  const block = join(dir, "grubenv");
  await run(["mcopy", "-n", "-o", "-i", esp, "::/capsule/grubenv", block]);
  writeFileSync(block, editGrubenv(readFileSync(block), { capsule_mode: mode }));
  await run(["mcopy", "-o", "-i", esp, block, "::/capsule/grubenv"]);
}

/** Starts the machine, with a blank disk in it, and cuts its power when its console has said who it is. */
async function bannerOf(name: string): Promise<string> {
  const machine = await Machine.start({
    ...{ dir: join(dir, name), disks: [disk()], stick: stick(), forwards: [] },
    ...{ kvm: false, cpus: 1, temporary: true, firmware: "bios" },
  });
  try {
    return await machine.untilConsole(/^Any key/m, 240_000);
  } finally {
    await machine.cutPower();
  }
}

test("told to be a capsule it is one, and goes on as one untold", { timeout: 600_000 }, async () => {
  await tell("capsule");
  const first = await bannerOf("told");
  assert.match(first, /capsule: disk: createPhysicalVolume/);
  assert.match(first, /^Capsule: /m);
  await tell(undefined);
  const second = await bannerOf("untold");
  assert.match(second, /^Capsule: /m);
  assert.doesNotMatch(second, /Installer:|createPhysicalVolume/);
  assert.equal(/id ([a-z2-7]{6}) /.exec(first)?.[1], /id ([a-z2-7]{6}) /.exec(second)?.[1]);
  assert.equal(statSync(disk()).blocks, 0);
});

test("told to install it does, though a capsule runs from it, and leaves that alone", {
  timeout: 300_000,
}, async () => {
  await tell("installer");
  const banner = await bannerOf("installer");
  assert.match(banner, /^Installer: /m);
  assert.doesNotMatch(banner, /capsule: disk:/);
  assert.equal(statSync(disk()).blocks, 0);
});
