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
    host = await QemuHost.start({ dir: join(dir, "grows") });
    capsule = await TestCapsule.on(host, join(dir, "grows"), ["hello"]);
  });
  after(async () => await capsule?.stop());

  test("its console tells name, id, addresses and fingerprint", async () => {
    const groups = capsule.fingerprint.match(/.{4}/g)?.slice(0, 8).join(" ") ?? "none";
    const console = await host.machine.untilConsole(new RegExp(groups), 30_000);
    assert.match(console, /Capsule: +capsule-[0-9a-f]{6} +id [a-z2-7]{6} /);
    assert.match(console, /API: +10\.0\.2\.15:50000/);
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
    const info = JSON.parse(await capsule.ctl(["capsule", "info", "-o", "json"])) as {
      mode: string;
      warnings: string[];
    };
    assert.equal(info.mode, "qemu");
    assert.deepEqual(info.warnings, []);
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
    await host.machine.untilConsole(/was not touched/, 30_000);
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
  const machine = await Machine.start({ dir: join(dir, "twins"), disks, forwards: [], kvm: false });
  try {
    await machine.untilConsole(/several disks have the signature b1a570ff: vda vdb/, 120_000);
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
  const machine = await Machine.start({ dir: join(dir, "damaged"), disks: [disk], forwards: [], kvm: false });
  try {
    await machine.untilConsole(/the slot on vda2 cannot be mounted/, 120_000);
  } finally {
    await machine.cutPower();
  }
});
