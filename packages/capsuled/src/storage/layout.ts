/**
 * Where storage lies and what it is called: the only place that knows. A pool holds disks; a disk has a name, unique in
 * its pool, and a uid, which it keeps for life. Names of volumes are DNS labels and get a prefix, so none can be one that
 * LVM keeps for itself (lvm(8), "Valid names") and none can be taken for a snapshot.
 */
import { join } from "node:path";

/** The pool that a volume is in unless it says another. */
export const defaultPool = "default";

/** Group and thin pool of the backend `lvm-thin`, which storage/substrate makes. */
export const groupName = "capsule";
export const thinPoolName = "pool";
/** Tag of a logical volume that is whole: one without it was cut while it was made, and nothing was ever stored in it. */
export const wholeTag = "capsule_whole";

/** Directory of the image files of `reflink` pools, and where they are mounted. The namespace runner knows the first too. */
export const poolFilesDir = "/perm/pools";
export const poolMountsDir = "/run/capsule/pools";
/** Volumes are mounted here, each in a directory of its uid. */
export const volumeMountsDir = "/run/capsule/volumes";

const MiB = 1024 ** 2;
/** LVM's extents: a size is a whole number of them, with both backends. */
export const extentBytes = 4 * MiB;
/** An ext4 with a journal and something in it. */
export const minVolumeBytes = 16 * MiB;
/** What ext4 with blocks of 4 KiB can be resized to online (ext4(5)). */
export const maxVolumeBytes = 16 * 1024 ** 4;

export function poolFile(pool: string): string {
  return join(poolFilesDir, `${pool}.img`);
}

export function poolMount(pool: string): string {
  return join(poolMountsDir, pool);
}

export function volumeMount(uid: string): string {
  return join(volumeMountsDir, uid);
}

/** Name of the disk of a volume: `/dev/capsule/vol-<name>` with `lvm-thin`. */
export function volumeDisk(volume: string): string {
  return `vol-${volume}`;
}

export function snapshotDisk(uid: string): string {
  return `snap-${uid}`;
}

/** A disk that is made and has no place yet: restored, imported, exported from. */
export function scratchDisk(uid: string): string {
  return `next-${uid}`;
}

/** Root filesystem of an image, for this platform; `key` follows from both. */
export function baseDisk(key: string): string {
  return `base-${key}`;
}

/** Root disk of a microVM. */
export function rootDisk(workloadUid: string): string {
  return `root-${workloadUid}`;
}

/** A size as the backends have it: the next whole number of extents. */
export function wholeExtents(sizeBytes: number): number {
  return Math.ceil(sizeBytes / extentBytes) * extentBytes;
}
