import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { type Disk, readDisks } from "./disks.ts";

let root: string;
const put = (path: string, text: string | Buffer): void => {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
};
/** As the kernel has them: below the device's own path, and a link in /sys/block. */
const aDisk = (device: string, name: string, files: Readonly<Record<string, string | Buffer>>): void => {
  const own = `devices/${device}/block/${name}`;
  for (const [file, text] of Object.entries({
    removable: "0\n",
    ro: "0\n",
    "queue/logical_block_size": "512\n",
    ...files,
  }))
    put(`${own}/${file}`, text);
  mkdirSync(join(root, "block"), { recursive: true });
  symlinkSync(join(root, own), join(root, "block", name));
};
let found: Disk[];
before(async () => {
  root = mkdtempSync(join(tmpdir(), "capsule-install-disks-"));
  aDisk("pci0000:00/0000:00:01.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0", "sdb", {
    size: "16777216\n",
    dev: "8:16\n",
    "device/model": "Cruzer Blade    \n",
    "device/vpd_pg80": Buffer.from("\0\x80\0\x0c  4C530001 \n", "latin1"),
    "sdb1/partition": "1\n",
    "sdb1/uevent": "DEVTYPE=partition\nPARTN=1\nPARTNAME=CAPSULEBOOT\n",
    "sdb1/size": "524288\n",
    "sdb1/dev": "8:17\n",
    "sdb2/partition": "2\n",
    "sdb2/uevent": "PARTNAME=slot_a\n",
    "sdb2/size": "1572864\n",
    "sdb2/dev": "8:18\n",
  });
  aDisk("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", "sda", {
    size: "1000\n",
    dev: "8:0\n",
    "queue/logical_block_size": "4096\n",
    "sda1/partition": "1\n",
    "sda1/uevent": "PARTN=1\n",
    "sda1/size": "900\n",
    "sda1/dev": "8:1\n",
    "sda1/holders/dm-0/x": "",
  });
  aDisk("pci0000:00/0000:00:04.0/nvme/nvme0", "nvme0n1", {
    size: "2000\n",
    dev: "259:0\n",
    "device/serial": "S5GX NF0R\n",
    "device/model": "Fast 1000\n",
  });
  aDisk("pci0000:00/0000:00:05.0/virtio1", "vda", { size: "2000\n", dev: "254:0\n", serial: "disk0", ro: "1\n" });
  aDisk("pci0000:00/mmc_host/mmc0/mmc0:0001", "mmcblk0", { size: "9\n", dev: "179:0\n", "device/type": "SD\n" });
  aDisk("pci0000:00/mmc_host/mmc1/mmc1:0001", "mmcblk1", { size: "9\n", dev: "179:8\n", "device/type": "MMC\n" });
  for (const name of ["loop0", "dm-0", "sr0", "zram0", "md127", "mmcblk1boot0"])
    aDisk(`virtual/${name}`, name, { size: "9\n" });
  // A card reader without a card.
  aDisk("pci0000:00/usb1/host7/target7:0:0/7:0:0:0", "sdc", { size: "0\n", removable: "1\n" });
  put(
    "proc/self/mountinfo",
    "21 1 0:19 / / rw - overlay overlay rw\n30 21 8:18 / /run/slot ro - squashfs /dev/sdb2 ro\n",
  );
  found = await readDisks({ sysBlock: join(root, "block"), proc: join(root, "proc") });
});
after(() => rmSync(root, { recursive: true, force: true }));

const named = (name: string): Disk => {
  const disk = found.find(({ path }) => path === `/dev/${name}`);
  assert.ok(disk !== undefined, `${name} is not among ${found.map(({ path }) => path).join(" ")}`);
  return disk;
};

test("whole disks with a medium, and nothing that only looks like one", () => {
  assert.deepEqual(
    found.map(({ path, transport, removable }) => [path, transport, removable]),
    [
      ["/dev/mmcblk0", "mmc", true],
      ["/dev/mmcblk1", "mmc", false],
      ["/dev/nvme0n1", "nvme", false],
      ["/dev/sda", "sata", false],
      ["/dev/sdb", "usb", false],
      ["/dev/vda", "virtio", false],
    ],
  );
});

test("what a person knows them by, from wherever their kind of drive has it", () => {
  assert.deepEqual([named("sdb").model, named("sdb").serial], ["Cruzer Blade", "4C530001"]);
  assert.deepEqual([named("nvme0n1").model, named("nvme0n1").serial], ["Fast 1000", "S5GX NF0R"]);
  assert.equal(named("vda").serial, "disk0");
  assert.equal(named("sda").serial, "");
});

test("sizes, sectors, partitions, and who uses them", () => {
  assert.deepEqual([named("sda").sizeBytes, named("sda").sectorBytes], [512_000, 4096]);
  assert.equal(named("vda").readOnly, true);
  assert.deepEqual(named("sdb").partitions, [
    { path: "/dev/sdb1", name: "CAPSULEBOOT", sizeBytes: 256 * 1024 ** 2 },
    { path: "/dev/sdb2", name: "slot_a", sizeBytes: 768 * 1024 ** 2 },
  ]);
  assert.deepEqual(named("sdb").users, ["mounted at /run/slot"]);
  assert.deepEqual(named("sda").users, ["/dev/dm-0 is built on it"]);
  assert.deepEqual(named("nvme0n1").users, []);
});
