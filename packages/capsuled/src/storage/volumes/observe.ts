/** What there is of a volume: its disk, what that holds, its mount. */
import type { VolumeRecord } from "../../store/volumes.ts";
import { volumeDisk, volumeMount } from "../layout.ts";
import type { Disk, PoolBackend } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";
import { readSuperblock } from "../tools/ext4.ts";
import { isMounted } from "../tools/mount.ts";
import type { Seen } from "./plan.ts";

export interface Looking {
  readonly record: VolumeRecord | undefined;
  readonly uid: string;
  readonly pools: Pools;
  readonly holders: readonly string[];
  readonly attached: boolean;
  readonly growsUnmountedOnly: boolean;
  readonly snapshots: number;
  /** What e2fsck found wrong with a disk's filesystem, by the disk's uid. */
  readonly damage: ReadonlyMap<string, string>;
  /** The name that a disk should have which is no volume's; undefined when nobody knows it. */
  readonly ownerOf: (disk: Disk) => string | undefined;
}

/** Throws CapsuleError `unavailable` when the pool cannot be used: nothing is known of the volume then. */
export async function observe(looking: Looking): Promise<Seen> {
  const { record, uid, pools, ownerOf, holders, attached, growsUnmountedOnly, snapshots, damage } = looking;
  const mounted = await isMounted(volumeMount(uid));
  const known = { mounted, holders, attached, growsUnmountedOnly, snapshots };
  const nothing = { ...known, disk: undefined, squatter: undefined, filesystem: undefined };
  if (record === undefined) return nothing;
  const pool = pools.get(record.pool);
  // A pool that was never made has no disks. One that is gone takes them with it, which is told, but for a deletion.
  const mustBeThere = record.provisioned && !record.deleting;
  const backend = mustBeThere ? await pool.use() : await pool.open(false);
  if (backend === undefined) return nothing;
  const disks = await backend.list();
  const disk = disks.find((one) => one.uid === record.diskUid);
  const named = disks.find((one) => one.name === volumeDisk(record.name) && one.uid !== record.diskUid);
  const squatter = named === undefined ? undefined : { disk: named, moveTo: ownerOf(named) };
  return { ...nothing, disk, squatter, filesystem: await filesystemOf(backend, disk, damage) };
}

async function filesystemOf(
  backend: PoolBackend,
  disk: Disk | undefined,
  damage: Looking["damage"],
): Promise<Seen["filesystem"]> {
  const found = disk === undefined ? undefined : await readSuperblock(await backend.pathOf(disk));
  return disk === undefined || found === undefined ? undefined : { ...found, damage: damage.get(disk.uid) };
}
