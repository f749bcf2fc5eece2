/**
 * A stick in a machine whose disks are not blank: what is refused, and leaves them as they are; the power cut in the middle
 * of an install, and the second try; a capsule that is given up for a new one. With SEED=n.
 */
import assert from "node:assert/strict";
import { closeSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { answersTls } from "../../image/answers.ts";
import { espBytes, espOffset } from "../../image/disk/layout.ts";
import { diskPath } from "../../image/image.ts";
import { copyDisk, Machine } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";
import { hasMarker } from "../../packages/capsuled/src/install/marker.ts";
import { notBootable } from "../../packages/capsuled/src/install/table.ts";
import { giveVolumeId } from "../../packages/capsuled/src/storage/substrate/boot-partition.ts";
import { fileIn } from "../../packages/capsuled/src/update/fat.ts";
import { Region } from "../../packages/capsuled/src/update/region.ts";
import { Operator } from "../support/operator.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { remembered } from "../support/untouched.ts";

const GiB = 1024 ** 3;
const MiB = 1024 ** 2;
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
/** Copying and reading back take longer, emulated. */
const latestCutMs = 20_000;
const bootMs = 240_000;

let dir: string;
let host: QemuHost;
let anna: Operator;
let ben: Operator;
let where: string;
let unchanged: (() => Promise<void>)[];
/** A disk that was written from an image, and one with the files of somebody. As the machine sees them: vda, vdb. */
const capsuleDisk = (): string => join(dir, "capsule.raw");
const someonesDisk = (): string => join(dir, "someones.raw");

before(async () => {
  console.log(`SEED=${seed}`);
  dir = mkdtempSync(join(tmpdir(), "capsule-refusals-"));
  await copyDisk(diskPath, capsuleDisk());
  // As its first start would have done it.
  await giveVolumeId(capsuleDisk(), espOffset);
  await makeSomeonesDisk(someonesDisk());
  unchanged = [await remembered(capsuleDisk(), 1_200), await remembered(someonesDisk(), 600)];
  anna = new Operator(join(dir, "anna"));
  ben = new Operator(join(dir, "ben"));
  host = await QemuHost.start({ dir: join(dir, "machine"), isStick: true, disks: [capsuleDisk(), someonesDisk()] });
  where = `127.0.0.1:${host.port}`;
  await untilAnswers();
});
after(async () => {
  await host?.cutPower();
  rmSync(dir, { recursive: true, force: true });
});

/** A table, an ext4 with a file in it, and a FAT. */
async function makeSomeonesDisk(path: string): Promise<void> {
  const tree = join(dir, "tree");
  mkdirSync(tree);
  writeFileSync(join(tree, "thesis.txt"), "the only copy\n".repeat(10_000));
  const filesystem = join(dir, "filesystem");
  for (const [file, size] of [
    [path, 6 * GiB],
    [filesystem, 512 * MiB],
  ] as const) {
    writeFileSync(file, "");
    truncateSync(file, size);
  }
  await run(["sfdisk", "--quiet", path], { input: "label: gpt\nsize=512MiB, name=home\nsize=64MiB, name=card\n" });
  await run(["mkfs.ext4", "-q", "-F", "-L", "precious", "-d", tree, filesystem]);
  await run(["dd", `if=${filesystem}`, `of=${path}`, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
  truncateSync(filesystem, 0);
  truncateSync(filesystem, 64 * MiB);
  await run(["mkfs.vfat", "-n", "CARD", filesystem]);
  await run(["dd", `if=${filesystem}`, `of=${path}`, "bs=1M", "seek=513", "conv=notrunc,sparse", "status=none"]);
}

async function untilAnswers(): Promise<void> {
  for (const deadline = Date.now() + bootMs; !(await answersTls(host.port)); await sleep(500))
    if (Date.now() > deadline) throw new Error(`no answer:\n${host.machine.console().slice(-2_000)}`);
}

async function refused(who: Operator, args: readonly string[], code: number, words: RegExp): Promise<void> {
  const result = await who.ctl(["install", where, ...args]);
  assert.equal(result.code, code, result.stderr);
  assert.match(result.stderr, words);
}

test("whoever is not sure whom they talk to is told so, and nothing is done", { timeout: 120_000 }, async () => {
  await refused(anna, ["--fingerprint", "0".repeat(64)], 4, /The fingerprint of .* is [0-9a-f]{64}, and not 0{64}/);
  await refused(anna, [], 4, /Compare the fingerprint .* --fingerprint SHA256 or --yes/);
  const adopted = await anna.ctl(["adopt", where, "--yes"]);
  assert.equal(adopted.code, 1);
  assert.match(adopted.stderr, /started as an installer.*capsulectl install/);
});

test("disks that are not blank are told for what they are, and need a word each", { timeout: 240_000 }, async () => {
  const none = await anna.ctl(["install", where, "--yes"]);
  assert.equal(none.code, 2, none.stderr);
  assert.match(none.stderr, /\/dev\/vda .* disk0 +a capsule +possible/);
  assert.match(none.stderr, /\/dev\/vdb .* disk1 +2 partitions: ext4 "precious", vfat "CARD" +possible/);
  assert.match(none.stderr, /No disk is blank.*--disk \(\/dev\/vda, \/dev\/vdb\)/);
  const to = (disk: string, ...more: string[]): string[] => ["--yes", "--disk", disk, ...more];
  await refused(anna, to("sda"), 1, /the installer runs from it/);
  await refused(anna, to("sdz"), 3, /no disk sdz/);
  await refused(anna, to("vda"), 1, /holds a capsule.*--reinstall/);
  await refused(anna, to("vda", "--erase=disk0"), 1, /holds a capsule.*--reinstall/);
  await refused(anna, to("vda", "--reinstall"), 2, /not blank \(a capsule\).*--erase=disk0/);
  await refused(anna, to("vdb"), 2, /not blank \(2 partitions.*--erase=disk1/);
  await refused(anna, to("vdb", "--erase=disk0"), 1, /confirmed by "disk1", and not by "disk0"/);
  await refused(anna, to("vdb", "--reinstall", "--erase=vdb"), 1, /confirmed by "disk1"/);
  await refused(anna, to("vdb", "--erase=disk1", "--hostname=No_Name"), 1, /no host name/);
  // Who began first has it.
  await refused(ben, ["--yes"], 4, /Somebody else has begun/);
});

test("at a terminal the fingerprint is asked for, and the disk's number: another answer ends it", {
  timeout: 180_000,
}, async () => {
  const asked = anna.onTerminal(["install", where, "--disk", "vdb"]);
  await asked.until(/Fingerprint [0-9a-f ]+/, "shown the fingerprint", 60_000);
  await asked.until(/Is it the one on its console\? \[y\/N\]/, "asked for it");
  asked.type("y\r");
  await asked.until(/\/dev\/vdb holds 2 partitions.*EVERYTHING on it will be lost/, "warned", 60_000);
  await asked.until(/Type disk1 to go on:/, "asked for the number");
  asked.type("yes\r");
  assert.equal(await asked.ended, 4, asked.text);
  assert.match(asked.text, /Nothing was done/);
  const unsure = anna.onTerminal(["install", where]);
  await unsure.until(/Is it the one on its console/, "asked", 60_000);
  unsure.type("n\r");
  assert.equal(await unsure.ended, 4, unsure.text);
});

test("a disk that is mounted is no target, whatever is given", { timeout: 120_000 }, async () => {
  await host.exec(["modprobe", "ext4"]);
  await host.exec(["sh", "-c", "mkdir -p /run/x && mount -t ext4 -o ro,noload /dev/vdb1 /run/x"]);
  await refused(anna, ["--yes", "--disk=vdb", "--erase=disk1"], 1, /in use: mounted at \/run\/x/);
  assert.match(await host.exec(["head", "-n", "1", "/run/x/thesis.txt"]), /the only copy/);
  await host.exec(["umount", "/run/x"]);
});

test("a stick of which one byte is another one is no stick", { timeout: 180_000 }, async () => {
  const boot = new Region(diskPath, [{ startBytes: espOffset, sizeBytes: espBytes }]);
  const kernel = await fileIn(boot, "/capsule/a/vmlinuz");
  const [last] = kernel.parts(kernel.sizeBytes - 1, 1);
  const put = async (byte: string): Promise<string> =>
    await host.exec(["sh", "-c", `printf '${byte}' | dd of=/dev/sda bs=1 seek=${last?.startBytes} conv=notrunc,fsync`]);
  await put("x");
  await refused(anna, ["--yes", "--disk=vdb", "--erase=disk1"], 1, /stick \(\/dev\/sda\) is damaged: behind vmlinuz/);
  await put("\\0");
});

test("after all that every disk is as it was", { timeout: 120_000 }, async () => {
  for (const isAsItWas of unchanged) await isAsItWas();
  assert.match(host.machine.console(), /no disk of this machine has been changed/);
  assert.match(host.machine.console(), /\/dev\/vda has a capsule: without the stick the machine starts that/);
});

test("the power goes in the middle: the disk does not start, the stick does, and a second try needs no word", {
  timeout: 900_000,
}, async () => {
  let cut: Promise<void> | undefined;
  const broken = await anna.ctl(["install", where, "--yes", "--disk=vdb", "--erase=disk1"], (text) => {
    if (text.includes(": copying"))
      cut ??= sleep(new Random(seed).below(latestCutMs)).then(async () => await host.cutPower());
  });
  await cut;
  assert.equal(broken.code, 1, broken.stderr);
  assert.match(broken.stderr, /connection .* was lost/);
  const file = openSync(someonesDisk(), "r");
  const head = Buffer.alloc(MiB);
  readSync(file, head, 0, MiB, 0);
  closeSync(file);
  assert.ok(hasMarker(head));
  assert.deepEqual(head.subarray(0, notBootable.length), notBootable);
  assert.equal(head.readUInt32LE(440), 0);

  await host.startAgain();
  await untilAnswers();
  const again = ["--yes", "--disk=vdb", "--hostname=second", "--name=second", "--no-reboot"];
  const second = await anna.ctl(["install", where, ...again]);
  assert.equal(second.code, 0, second.stderr);
  assert.match(second.stderr, /\/dev\/vdb .* an install that was cut off +possible/);
});

test("a capsule is given up by a word and its disk's number; another one is told by its name", {
  timeout: 300_000,
}, async () => {
  const args = [
    "--yes",
    "--disk=vda",
    "--reinstall",
    "--erase=disk0",
    "--hostname=third",
    "--name=third",
    "--no-reboot",
  ];
  const third = await anna.ctl(["install", where, ...args]);
  assert.equal(third.code, 0, third.stderr);
  assert.match(third.stderr, /\/dev\/vdb .* a capsule "second" \([a-z2-7]{6}\) +possible/);
  await host.cutPower();
});

test("without the stick each is a capsule that is hers, beside the other one", { timeout: 600_000 }, async () => {
  for (const [name, disks] of [
    ["second", [someonesDisk(), capsuleDisk()]],
    ["third", [capsuleDisk(), someonesDisk()]],
  ] as const) {
    const { kvm } = host.machine.options;
    const machine = await Machine.start({
      ...{ dir: join(dir, name), disks, kvm, cpus: 1, temporary: true },
      forwards: [[host.port, 50_000]],
      // The boot code of both kinds of firmware came along.
      firmware: name === "second" ? "bios" : "uefi",
    });
    try {
      await untilAnswers();
      const info = await anna.ctl(["--capsule", name, "capsule", "info"]);
      assert.equal(info.code, 0, info.stderr);
      assert.match(info.stdout, new RegExp(`^Name: +${name} `, "m"));
      assert.doesNotMatch(info.stdout, /Warning/i);
      const stranger = await ben.ctl(["adopt", where, "--yes"]);
      assert.equal(stranger.code, 4, stranger.stderr);
    } finally {
      await machine.cutPower();
    }
  }
});
