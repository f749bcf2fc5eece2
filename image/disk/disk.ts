/** Writes a whole disk as a file: partition table, boot code, boot partition, the first slot. No loop device, no mount. */
import { createReadStream } from "node:fs";
import { open, rename, rm, truncate, writeFile } from "node:fs/promises";
import { run } from "../run.ts";
import type { SignedSlot } from "../update.ts";
import { writeBiosBoot } from "./bios.ts";
import { writeEsp } from "./esp.ts";
import { diskSignature, type Partition, sfdiskScript } from "./layout.ts";

const MiB = 1024 * 1024;
/** Of the image only; the installer gives each disk its own. */
const imageDiskId = "B1A570FF-0000-4000-8000-000000000000";
const imagePartitionId = (number: number): string => `B1A570FF-0000-4000-8000-00000000000${number}`;

/** The file at `target` is the old one or the whole new one. */
export async function writeDisk(
  signed: SignedSlot,
  partitions: readonly Partition[],
  diskBytes: number,
  target: string,
): Promise<void> {
  const scratch = `${target}.new`;
  const esp = `${target}.esp`;
  try {
    await rm(scratch, { force: true });
    await writeFile(scratch, "");
    await truncate(scratch, diskBytes);
    await run(["sfdisk", "--quiet", scratch], { input: sfdiskScript(partitions, imageDiskId, imagePartitionId) });
    await writeSignature(scratch);
    const boot = partitionOf(partitions, "CAPSULEBOOT");
    await writeEsp(signed, esp, boot.sizeBytes);
    await copyInto(scratch, esp, boot.startBytes);
    await copyInto(scratch, signed.slot.squashfs, partitionOf(partitions, "slot_a").startBytes);
    if (process.arch === "x64") await writeBiosBoot(scratch, partitionOf(partitions, "BIOSBOOT"));
    await rename(scratch, target);
  } finally {
    await rm(scratch, { force: true });
    await rm(esp, { force: true });
  }
}

function partitionOf(partitions: readonly Partition[], wanted: Partition["name"]): Partition {
  const partition = partitions.find(({ name }) => name === wanted);
  if (partition === undefined) throw new Error(`the layout has no partition ${wanted}`);
  return partition;
}

/** The four bytes at offset 440 of the first sector, little-endian: fdisk's "disk identifier" of an MBR. */
async function writeSignature(disk: string): Promise<void> {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(Number.parseInt(diskSignature, 16));
  const file = await open(disk, "r+");
  await file.write(bytes, 0, 4, 440);
  await file.close();
}

/** Leaves holes where the source has zeros. */
async function copyInto(disk: string, file: string, offset: number): Promise<void> {
  const target = await open(disk, "r+");
  const zeros = Buffer.alloc(MiB);
  let at = offset;
  try {
    for await (const data of createReadStream(file, { highWaterMark: MiB }) as AsyncIterable<Buffer>) {
      if (!data.equals(zeros.subarray(0, data.length))) await target.write(data, 0, data.length, at);
      at += data.length;
    }
    await target.sync();
  } finally {
    await target.close();
  }
}
