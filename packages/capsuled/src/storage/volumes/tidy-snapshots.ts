/** Finishes what was begun with the snapshots of a volume, inside `exclusive` of it: their disks into place, or away. */
import type { Store } from "../../store/store.ts";
import { snapshotDisk } from "../layout.ts";
import type { Pools } from "../pool/pools.ts";

export async function tidySnapshots(
  { store, pools }: { readonly store: Store; readonly pools: Pools },
  volumeUid: string,
): Promise<void> {
  const snapshots = store.snapshots.of(volumeUid);
  const pool = store.volumes.byUid(volumeUid)?.pool;
  if (snapshots.length === 0 || pool === undefined) return;
  const backend = await pools.get(pool).use();
  const disks = await backend.list();
  for (const { uid, diskUid, deleting } of snapshots) {
    const disk = disks.find((one) => one.uid === diskUid);
    const name = snapshotDisk(uid);
    if (deleting) {
      if (disk !== undefined) await backend.remove(disk);
      store.snapshots.remove(uid);
    } else if (disk !== undefined && (!disk.whole || disk.name !== name)) await backend.publish(disk, name);
  }
}
