/**
 * The partitions of a capsule's disk: sizes and places, and nothing that reads or writes one. The image builder and the
 * installer use it. All sizes are in bytes.
 */

/** MBR disk signature by which a capsule knows its disks. */
export const diskSignature = "b1a570ff";

export const sectorBytes = 512;
const MiB = 1024 * 1024;
/** Partitions begin at multiples of it: no flash or RAID has larger blocks that would matter. */
const alignment = MiB;
/** GPT keeps a copy of its table at the end: 33 sectors, rounded up. */
const tail = MiB;

/** Behind the table, before the first aligned partition: GRUB for BIOS. */
const biosOffset = 34 * sectorBytes;

/** Where the boot partition begins. */
export const espOffset = alignment;
export const espBytes = 256 * MiB;
export const defaultSlotBytes = 768 * MiB;
/**
 * What kernel and initramfs of each slot have on the boot partition: files of this size from the first, filled up with zeros,
 * so that an update overwrites blocks and never touches the filesystem (packages/capsuled/src/update/fat.ts).
 */
export const bootFileBytes = { vmlinuz: 24 * MiB, initrd: 16 * MiB } as const;
/**
 * Of the image's own slot, on its boot partition: what an update bundle of it begins with (packages/api/src/update-bundle.ts).
 * It stays as it is when that slot is updated.
 */
export const imageManifest = { manifest: "/capsule/manifest", signature: "/capsule/manifest.sig" } as const;
/** The smallest PERM that is of use: 1 GiB for /perm and as much for volumes. */
export const minPermBytes = 2048 * MiB;

/** GPT partition types (UEFI specification 2.10, table 5.7; https://uapi-group.org/specifications). */
const types = {
  esp: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
  linux: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
  lvm: "E6D6D379-F507-44C2-A23C-238F2A3DF928",
  bios: "21686148-6449-6E6F-744E-656564454649",
} as const;

export interface Partition {
  /** From 1. */
  readonly number: number;
  /** GPT name, by which it is found. */
  readonly name: "CAPSULEBOOT" | "slot_a" | "slot_b" | "PERM" | "BIOSBOOT";
  readonly type: string;
  readonly startBytes: number;
  readonly sizeBytes: number;
}

export class LayoutError extends Error {
  override readonly name = "LayoutError";
}

/** The smallest disk for slots of this size. */
export function minDiskBytes(slotBytes: number = defaultSlotBytes): number {
  return alignment + espBytes + 2 * slotBytes + minPermBytes + tail;
}

/**
 * Lays a disk out. PERM takes what is left.
 * @throws {LayoutError} when the disk is too small or a size is no multiple of 1 MiB; the message says what is needed.
 */
export function layoutOf(diskBytes: number, slotBytes: number = defaultSlotBytes): Partition[] {
  if (slotBytes % alignment !== 0 || slotBytes < 64 * MiB)
    throw new LayoutError(`a slot has whole MiB, at least 64: ${slotBytes} bytes are not possible`);
  const needed = minDiskBytes(slotBytes);
  if (diskBytes < needed) {
    throw new LayoutError(
      `the disk has ${Math.floor(diskBytes / MiB)} MiB and ${needed / MiB} MiB are needed: boot partition ${espBytes / MiB}, two slots of ${slotBytes / MiB}, PERM at least ${minPermBytes / MiB}`,
    );
  }
  const end = Math.floor((diskBytes - tail) / alignment) * alignment;
  const slotA = alignment + espBytes;
  const perm = slotA + 2 * slotBytes;
  return [
    { number: 1, name: "CAPSULEBOOT", type: types.esp, startBytes: alignment, sizeBytes: espBytes },
    { number: 2, name: "slot_a", type: types.linux, startBytes: slotA, sizeBytes: slotBytes },
    { number: 3, name: "slot_b", type: types.linux, startBytes: slotA + slotBytes, sizeBytes: slotBytes },
    { number: 4, name: "PERM", type: types.lvm, startBytes: perm, sizeBytes: end - perm },
    { number: 5, name: "BIOSBOOT", type: types.bios, startBytes: biosOffset, sizeBytes: alignment - biosOffset },
  ];
}

/** Input of sfdisk(8) that makes these partitions. `uuidOf` gives their ids: fixed in an image, random on a disk. */
export function sfdiskScript(
  partitions: readonly Partition[],
  diskId: string,
  uuidOf: (number: number) => string,
): string {
  const lines = partitions.map(
    ({ number, name, type, startBytes, sizeBytes }) =>
      `${number} : start=${startBytes / sectorBytes}, size=${sizeBytes / sectorBytes}, type=${type}, name="${name}", uuid=${uuidOf(number)}`,
  );
  return ["label: gpt", `label-id: ${diskId}`, "unit: sectors", "first-lba: 34", ...lines, ""].join("\n");
}
