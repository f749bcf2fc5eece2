/**
 * The id of the boot partition's filesystem, by which the boot loader tells the system which disk it was read from
 * (image/initramfs/init). That of an image is the same on every disk that it was written to; a capsule has its own.
 */
import { randomBytes } from "node:crypto";
import { diskSignature, sectorBytes } from "../../../../../image/disk/layout.ts";
import { changeSector, readSector } from "../../update/sector.ts";
import { partitionNamed } from "../../update/slots.ts";
import type { BootDisk } from "./disk.ts";

/** Of FAT32 (Microsoft, "FAT: General Overview of On-Disk Format", 1.03): BPB_BkBootSec and BS_VolID. */
const backupSectorAt = 50;
const volumeIdAt = 67;

/** Gives it one of its own, when it still has the image's. */
export async function ownBootPartition({ disk }: Pick<BootDisk, "disk">): Promise<void> {
  const { device } = await partitionNamed(disk, "CAPSULEBOOT");
  await giveVolumeId(device, 0);
}

/** Of the filesystem at `startBytes`: the copy of its first sector goes first, and each is one sector, whole or not at all. */
export async function giveVolumeId(path: string, startBytes: number): Promise<void> {
  const sector = await readSector(path, startBytes);
  if (sector.readUInt32LE(volumeIdAt).toString(16) !== diskSignature) return;
  const backupAt = withOwnId(sector);
  for (const at of backupAt > 0 ? [backupAt, 0] : [0])
    await changeSector(path, startBytes + at, (found) => void sector.copy(found));
}

/** Changes the first sector of a FAT32; returns where its copy is, in bytes from it. */
export function withOwnId(bootSector: Buffer): number {
  randomBytes(4).copy(bootSector, volumeIdAt);
  return bootSector.readUInt16LE(backupSectorAt) * sectorBytes;
}
