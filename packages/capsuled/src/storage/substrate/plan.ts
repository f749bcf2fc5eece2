/**
 * What the disk of a capsule needs next, from what is on it now. Pure: one step at a time, each of which may be cut by a
 * power failure; the next start looks again and goes on. Nothing that may hold data is ever overwritten.
 */
import { groupName, thinPoolName, wholeTag } from "../layout.ts";
import type { LogicalVolume } from "../tools/lvm.ts";

const GiB = 1024 ** 3;
const MiB = 1024 ** 2;

/** What was found on a partition or volume: nothing at all, a known format (blkid's word), or bytes that nobody knows. */
export type Contents = "blank" | "unknown" | (string & { readonly __format?: never });

export interface Partition {
  readonly device: string;
  readonly sizeBytes: number;
  /** Of the disk behind it: what it could grow by. */
  readonly freeBehindBytes: number;
  readonly contents: Contents;
}

export type SeenVolume = Pick<LogicalVolume, "name" | "sizeBytes" | "tags" | "isThin">;

export interface Observed {
  readonly partition: Partition;
  /** Volume group of the physical volume; undefined when it is in none. */
  readonly group: string | undefined;
  /** How much of the partition the physical volume does not know of yet. */
  readonly pvGrowBytes: number;
  readonly groupSizeBytes: number;
  readonly groupFreeBytes: number;
  readonly volumes: readonly SeenVolume[];
  readonly active: boolean;
}

export type Step =
  | { readonly kind: "growPartition" }
  | { readonly kind: "createPhysicalVolume" }
  | { readonly kind: "createGroup" }
  | { readonly kind: "growPhysicalVolume" }
  | { readonly kind: "activate" }
  | { readonly kind: "createPerm"; readonly sizeBytes: number }
  | { readonly kind: "formatPerm" }
  | { readonly kind: "growPerm"; readonly sizeBytes: number }
  | { readonly kind: "removeVolume"; readonly name: string }
  | { readonly kind: "createPool"; readonly sizeBytes: number; readonly metadataBytes: number }
  | { readonly kind: "markPool" };

/** The disk holds something that is not ours, or is not as it can be. Told to people; nothing was changed. */
export class SubstrateError extends Error {
  override readonly name: string = "SubstrateError";
}

/** The filesystem of `/perm` needs a repair that may lose something: a person's decision. */
export class DamagedError extends SubstrateError {
  override readonly name = "DamagedError";
}

export const permName = "perm";

/** Undefined: the substrate is whole, `/perm` can be checked and mounted. Throws SubstrateError. */
export function nextStep(observed: Observed): Step | undefined {
  const { partition, group, volumes } = observed;
  if (partition.contents !== "blank" && partition.contents !== "LVM2_member") throw foreign(partition);
  if (partition.freeBehindBytes >= 64 * MiB) return { kind: "growPartition" };
  if (partition.contents === "blank") return { kind: "createPhysicalVolume" };
  if (group === undefined) return { kind: "createGroup" };
  if (group !== groupName) throw foreignGroup(partition, group);
  // The group's own extents are 4 MiB; less than a few of them are not worth a change.
  if (observed.pvGrowBytes >= 64 * MiB) return { kind: "growPhysicalVolume" };
  if (!observed.active) return { kind: "activate" };
  const wanted = permBytes(observed.groupSizeBytes);
  const perm = volumes.find(({ name }) => name === permName);
  if (perm === undefined) return { kind: "createPerm", sizeBytes: wanted };
  if (!perm.tags.includes(wholeTag)) return { kind: "formatPerm" };
  const growth = wanted - perm.sizeBytes;
  if (growth >= 256 * MiB && growth <= observed.groupFreeBytes) return { kind: "growPerm", sizeBytes: wanted };
  return nextPoolStep(observed);
}

function nextPoolStep({ volumes, groupFreeBytes }: Observed): Step | undefined {
  const pool = volumes.find(({ name }) => name === thinPoolName);
  if (pool?.tags.includes(wholeTag) === true) return undefined;
  const inUse = volumes.some(({ isThin }) => isThin);
  // Somebody's volumes live in it: it is whole, whatever its tags.
  if (pool !== undefined && inUse) return { kind: "markPool" };
  const halfMade = volumes.find(({ name }) => name === thinPoolName || /^(lvol\d+|pool_)/.test(name));
  if (halfMade !== undefined) return { kind: "removeVolume", name: halfMade.name };
  const metadataBytes = poolMetadataBytes(groupFreeBytes);
  // The metadata twice (LVM keeps a spare), and a tenth for both to grow into.
  const sizeBytes = floorTo((groupFreeBytes - 2 * metadataBytes) * 0.9, 4 * MiB);
  if (sizeBytes < 256 * MiB) return undefined;
  return { kind: "createPool", sizeBytes, metadataBytes };
}

/** A quarter of the group, 1 to 32 GiB. */
export function permBytes(groupBytes: number): number {
  return floorTo(Math.min(32 * GiB, Math.max(1 * GiB, groupBytes / 4)), 4 * MiB);
}

/** 64 B of metadata for each chunk of 64 KiB (lvmthin(7)), at least 32 MiB, at most 1 GiB: it can grow. */
export function poolMetadataBytes(poolBytes: number): number {
  return ceilTo(Math.min(1 * GiB, Math.max(32 * MiB, poolBytes / 1024)), 4 * MiB);
}

function foreign({ device, contents, sizeBytes }: Partition): SubstrateError {
  const what = contents === "unknown" ? "data of no known format" : `a filesystem or volume of type ${contents}`;
  return new SubstrateError(
    `The partition PERM (${device}, ${Math.floor(sizeBytes / MiB)} MiB) holds ${what}, which is not the capsule's: it was not touched. ` +
      `If nobody needs it, erase it from another system (wipefs -a ${device}) and start the capsule again.`,
  );
}

function foreignGroup({ device }: Partition, group: string): SubstrateError {
  return new SubstrateError(
    `The partition PERM (${device}) belongs to the LVM volume group "${group}", which is not the capsule's: it was not touched. ` +
      "If nobody needs it, erase it from another system and start the capsule again.",
  );
}

function floorTo(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}

function ceilTo(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
