/** What is copied from the stick to the disk, and where it goes there. */
import { layoutOf, type Partition, sectorBytes } from "../../../../image/disk/layout.ts";
import { CapsuleError } from "../errors.ts";
import { type Extent, Region } from "../update/region.ts";
import { damagedStick, type MediumDisk, type PartitionName } from "./medium.ts";

/** Both have the same size. */
export interface Piece {
  /** For people. */
  readonly name: string;
  readonly from: Region;
  readonly to: Region;
}

export interface TargetDisk {
  readonly path: string;
  readonly sizeBytes: number;
}

/** What a boot partition must have, by its files on it. */
const bootFiles = ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grub.cfg", "/capsule/grubenv"];
const squashfsMagic = "hsqs";
/** Of a squashfs (its format, 4.0): the superblock and where it says how long it is. */
const superblockBytes = 96;
const bytesUsedAt = 40;
const blockBytes = 4096;

/**
 * In their order: the boot partition without its first sector, by which firmware knows it, and GRUB for BIOS without the
 * last sector of its place (marker.ts). Slot b of the disk stays empty. Throws CapsuleError when the stick is damaged.
 */
export async function piecesOf(medium: MediumDisk, target: TargetDisk): Promise<Piece[]> {
  const layout = layoutOf(target.sizeBytes, medium.slotBytes);
  for (const path of bootFiles) await medium.file(path);
  const boot = medium.extentOf("CAPSULEBOOT");
  const { sizeBytes } = partitionOf(layout, "CAPSULEBOOT");
  if (boot.sizeBytes !== sizeBytes)
    throw damagedStick(medium, `its boot partition has ${boot.sizeBytes} bytes, and ${sizeBytes} are laid out for it`);
  const slot = medium.extentOf(`slot_${medium.slot}`);
  const usedBytes = await squashfsBytes(medium);
  const piece = (name: string, from: Extent, to: Extent): Piece => ({
    name,
    from: new Region(medium.disk, [from]),
    to: new Region(target.path, [to]),
  });
  const bios = partitionOf(layout, "BIOSBOOT");
  return [
    piece("boot partition", behind(boot, sectorBytes), behind(partitionOf(layout, "CAPSULEBOOT"), sectorBytes)),
    piece("system", first(slot, usedBytes), first(partitionOf(layout, "slot_a"), usedBytes)),
    piece(
      "boot loader",
      first(medium.extentOf("BIOSBOOT"), bios.sizeBytes - sectorBytes),
      first(bios, bios.sizeBytes - sectorBytes),
    ),
  ];
}

export function partitionOf(layout: readonly Partition[], wanted: PartitionName): Partition {
  const partition = layout.find(({ name }) => name === wanted);
  if (partition === undefined) throw new CapsuleError("internal", `the layout has no partition ${wanted}`);
  return partition;
}

function behind({ startBytes, sizeBytes }: Extent, skipBytes: number): Extent {
  return { startBytes: startBytes + skipBytes, sizeBytes: sizeBytes - skipBytes };
}

function first({ startBytes }: Extent, sizeBytes: number): Extent {
  return { startBytes, sizeBytes };
}

/** How much of the slot is used, in whole blocks. */
async function squashfsBytes(medium: MediumDisk): Promise<number> {
  const region = medium.region(`slot_${medium.slot}`);
  const superblock = await region.read(0, superblockBytes);
  const used = Number(superblock.readBigUInt64LE(bytesUsedAt));
  const isSquashfs = superblock.toString("latin1", 0, squashfsMagic.length) === squashfsMagic;
  if (!isSquashfs || used > region.sizeBytes) throw damagedStick(medium, `its slot ${medium.slot} holds no system`);
  return Math.min(region.sizeBytes, Math.ceil(used / blockBytes) * blockBytes);
}
