import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { readDisks } from "./disks.ts";

let root: string;
const put = (path: string, text: string): void => {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), `${text}\n`);
};
before(() => {
  root = mkdtempSync(join(tmpdir(), "capsule-disks-"));
});
after(() => rmSync(root, { recursive: true, force: true }));

test("whole disks with a medium, and nothing that only looks like one", async () => {
  put("nvme0n1/size", "2048");
  put("nvme0n1/removable", "0");
  put("nvme0n1/device/model", "Fast 1000   ");
  put("sda/size", "4096");
  put("sda/removable", "1");
  put("sda/device/model", "Stick");
  put("vda/size", "16");
  put("vda/device/uevent", "DRIVER=virtio_blk");
  // A drive without a medium, a loop device, a logical volume, a card reader with nothing in it.
  put("sr0/size", "100");
  put("sr0/device/model", "DVD");
  put("loop0/size", "100");
  put("dm-0/size", "100");
  put("mmcblk0/size", "0");
  put("mmcblk0/device/model", "none");
  const disks = await readDisks("/dev/vda", root);
  assert.deepEqual(
    disks.map(({ name, model, sizeBytes, removable, system }) => [name, model, sizeBytes, removable, system]),
    [
      ["nvme0n1", "Fast 1000", 1_048_576n, false, false],
      ["sda", "Stick", 2_097_152n, true, false],
      ["vda", "", 8_192n, false, true],
    ],
  );
});
