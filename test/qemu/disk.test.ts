/** Disks as they may be found: larger than the image, foreign, ambiguous. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, truncateSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { layoutOf } from "../../image/disk/layout.ts";
import { diskPath } from "../../image/image.ts";
import { copyDisk, Machine } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const GiB = 1024 ** 3;
let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-disk-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

describe("a machine", () => {
  let capsule: TestCapsule;
  let host: QemuHost;
  before(async () => {
    host = await QemuHost.start({ dir: join(dir, "grows"), tpm: true });
    capsule = await TestCapsule.on(host, join(dir, "grows"), ["hello"]);
  });
  after(async () => await capsule?.stop());

  test("its console tells name, id, addresses and fingerprint", async () => {
    const groups = capsule.fingerprint.match(/.{4}/g)?.slice(0, 8).join(" ") ?? "none";
    const console = await host.machine.untilConsole(new RegExp(groups), 90_000);
    assert.match(console, /Capsule: +capsule-[0-9a-f]{6} +id [a-z2-7]{6} /);
    assert.match(console, /API: +10\.0\.2\.15:50000/);
  });

  test("a key shows the last lines of the log, and the banner again", async () => {
    // The last of all, and more than a serial line takes at once.
    const lines =
      'for i in $(seq 40); do printf "2099-01-01T00:00:00.0000000%02dZ %0250d\\n" $i $i; done >/perm/log/long.log';
    await host.exec(["sh", "-c", lines]);
    await host.machine.typeKey("x");
    await host.machine.untilConsole(/long: 0+11\s[\s\S]*long: 0+40\s[\s\S]*API: +10\.0\.2\.15:50000/, 90_000);
    await host.exec(["rm", "/perm/log/long.log"]);
    // Not a shell, whatever is typed.
    await host.machine.typeKey("id\n");
    assert.doesNotMatch(host.machine.console(), /uid=0/);
  });

  test("it is a machine: one writable place, cgroup v2, a watchdog, its own clock", async () => {
    const mounts = await host.exec(["cat", "/proc/mounts"]);
    assert.match(mounts, /^\/dev\/mapper\/capsule-perm \/perm ext4 /m);
    assert.match(mounts, /^cgroup2? \/sys\/fs\/cgroup cgroup2 /m);
    assert.doesNotMatch(mounts, /^\/dev\/vda\S* \S+ \S+ rw/m);
    assert.match(await host.exec(["sysctl", "-n", "kernel.unprivileged_bpf_disabled"]), /^[12]/);
    const volumes = await host.exec(["lvm", "lvs", "--noheadings", "-o", "lv_name,lv_attr", "capsule"]);
    assert.match(volumes, /perm\s+-wi-ao/);
    assert.match(volumes, /pool\s+twi-a/);
    // By dmeventd, which grows it before it is full.
    assert.match(await host.exec(["lvm", "lvs", "--noheadings", "-o", "seg_monitor", "capsule/pool"]), /^\s*monitored/);
    assert.match(await host.exec(["dmesg"]), /Kernel is locked down from command line/);
    assert.match(await host.exec(["cat", "/sys/class/tpm/tpm0/tpm_version_major"]), /^2/);
    const info = JSON.parse(await capsule.ctl(["capsule", "info", "-o", "json"])) as {
      mode: string;
      warnings: string[];
      slot: string;
      disks: object[];
      pools: { backend: string; sizeBytes: string; usedBytes: string }[];
    };
    assert.equal(info.mode, "qemu");
    assert.deepEqual(info.warnings, []);
    assert.equal(info.slot, "a");
    assert.deepEqual(info.disks, [
      { name: "vda", model: "", sizeBytes: String(8 * GiB), removable: false, system: true },
    ]);
    const [pool] = info.pools;
    assert.ok(pool?.backend === "lvm-thin" && Number(pool.sizeBytes) > GiB && Number(pool.usedBytes) === 0);
  });

  test("a page is served through a forwarded port", async () => {
    const page = `kind: Container\nname: page\ncontainer: {image: "hello:1", stopTimeout: 0s, ports: [{containerPort: 8080, hostPort: 80}]}\n`;
    assert.equal((await capsule.apply(page, "--wait=60s")).code, 0);
    const response = await fetch(`http://${await host.endpoint(80)}/`);
    assert.match(await response.text(), /Hello/);
  });

  test("the power button stops it in order; a larger disk is grown into at the next boot", async () => {
    await host.machine.pressPower();
    assert.ok(await host.machine.untilOff(60_000), "off within a minute");
    assert.match(host.machine.console(), /capsule-init: capsuled: stopped \(exit code 0\)/);
    truncateSync(join(dir, "grows/disk.raw"), 20 * GiB);
    await host.startAgain();
    await capsule.untilServing();
    const report = await host.exec([
      "lvm",
      "vgs",
      "--noheadings",
      "--units",
      "g",
      "--nosuffix",
      "-o",
      "vg_size",
      "capsule",
    ]);
    assert.ok(Number(report) > 17, report);
    const { status } = await capsule.workload("page");
    assert.ok(status.phase !== "PHASE_FAILED");
  });
});

test("a foreign filesystem on PERM is left alone, and API and console say what to do", {
  timeout: 300_000,
}, async () => {
  const perm = layoutOf(8 * GiB)[3];
  assert.ok(perm !== undefined);
  const filesystem = join(dir, "foreign.img");
  await run(["truncate", "-s", String(perm.sizeBytes), filesystem]);
  await run(["mkfs.ext4", "-q", "-F", "-L", "precious", filesystem]);
  const host = await QemuHost.start({
    dir: join(dir, "foreign"),
    prepare: async (disk) =>
      void (await run([
        "dd",
        `if=${filesystem}`,
        `of=${disk}`,
        "bs=1M",
        `seek=${perm.startBytes / 1024 ** 2}`,
        "conv=notrunc,sparse",
      ])),
  });
  const capsule = await TestCapsule.on(host, join(dir, "foreign"), []);
  try {
    await host.machine.untilConsole(/was not touched/, 90_000);
    const info = JSON.parse(await capsule.ctl(["capsule", "info", "-o", "json"])) as { warnings: string[] };
    assert.match(info.warnings.join("\n"), /PERM .* type ext4, .*was not touched/);
    const applied = await capsule.apply('kind: Container\nname: x\ncontainer: {image: "busybox:1"}\n');
    assert.notEqual(applied.code, 0);
    assert.match(applied.stderr, /Nothing can be kept/);
    assert.match(await host.exec(["blkid", "-p", "-s", "LABEL", "-o", "value", "/dev/vda4"]), /precious/);
  } finally {
    await capsule.stop();
  }
});

test("two disks with the same signature: it refuses to guess, and names both", { timeout: 200_000 }, async () => {
  const disks = ["one.raw", "two.raw"].map((name) => join(dir, name));
  for (const disk of disks) await copyDisk(diskPath, disk);
  const machine = await Machine.start({
    dir: join(dir, "twins"),
    disks,
    forwards: [],
    kvm: false,
    temporary: true,
    firmware: "bios",
  });
  try {
    await machine.untilConsole(
      /several disks have the signature b1a570ff and the same boot partition: vda vdb/,
      120_000,
    );
  } finally {
    await machine.cutPower();
  }
});

test("a damaged slot is told on the console", { timeout: 200_000 }, async () => {
  const disk = join(dir, "damaged.raw");
  await copyDisk(diskPath, disk);
  const slot = layoutOf(8 * GiB)[1];
  const file = await open(disk, "r+");
  await file.write(Buffer.alloc(4096), 0, 4096, slot?.startBytes ?? 0);
  await file.close();
  // Without UEFI: the two tests of what never reaches capsule-init show that it boots so too.
  const machine = await Machine.start({
    dir: join(dir, "damaged"),
    disks: [disk],
    forwards: [],
    kvm: false,
    temporary: true,
    firmware: "bios",
  });
  try {
    await machine.untilConsole(/the slot on vda2 cannot be mounted/, 120_000);
  } finally {
    await machine.cutPower();
  }
});

test("a damaged /perm: the API says so, nothing is formatted, and a repair that is asked for brings it back", {
  timeout: 400_000,
}, async () => {
  const host = await QemuHost.start({ dir: join(dir, "hurt") });
  const capsule = await TestCapsule.on(host, join(dir, "hurt"), []);
  try {
    const { fingerprint } = capsule;
    const unhurt = await capsule.try(["capsule", "repair", "--yes"]);
    assert.equal(unhurt.code, 1);
    assert.match(unhurt.stderr, /nothing to repair: \/perm is in use/);
    await capsule.ctl(["capsule", "hostname", "precious"]);
    await capsule.ctl(["capsule", "shutdown", "--yes"]);
    assert.ok(await host.machine.untilOff(60_000), "off within a minute");
    await hurtPerm(join(dir, "hurt/disk.raw"));

    await host.startAgain();
    await capsule.untilServing();
    assert.notEqual(capsule.fingerprint, fingerprint, "its identity is on the disk that cannot be read");
    await capsule.ctl(["adopt", `127.0.0.1:${host.port}`, "--name", "hurt", "--fingerprint", capsule.fingerprint]);
    const hurt = (...args: string[]): Promise<string> => capsule.ctl(["--capsule", "hurt", "capsule", ...args]);
    const info = JSON.parse(await hurt("info", "-o", "json")) as { warnings: string[] };
    assert.match(info.warnings.join("\n"), /\/perm .* is damaged .*capsule repair/);
    const dry = await capsule.try(["--capsule", "hurt", "capsule", "repair", "--dry-run"]);
    assert.match(dry.stderr, /\? no/);
    assert.match(await hurt("repair", "--yes"), /repaired/);
    const boot = await host.bootId();
    await hurt("reboot", "--yes");
    await host.untilRebooted(boot);
    await capsule.untilServing();
    assert.equal(capsule.fingerprint, fingerprint, "the former identity, and with it everything else");
    assert.match(await host.exec(["cat", "/perm/capsule/hostname"]), /precious/);
  } finally {
    await capsule.stop();
  }
});

/** Zeros over the superblock, which no journal brings back; LVM's own areas stay. */
async function hurtPerm(disk: string): Promise<void> {
  const perm = layoutOf(8 * GiB)[3];
  assert.ok(perm !== undefined);
  // The first volume of the group begins at its first extent, behind 1 MiB of LVM's own.
  const superblock = perm.startBytes + 1024 ** 2 + 1024;
  const file = await open(disk, "r+");
  await file.write(Buffer.alloc(1024), 0, 1024, superblock);
  await file.close();
}
