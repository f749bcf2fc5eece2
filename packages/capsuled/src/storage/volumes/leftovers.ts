/** Disks that no row speaks of: what was not finished was promised to nobody and goes, what is whole is told and left alone. */
import type { Logger } from "pino";
import type { Store } from "../../store/store.ts";
import type { Disk } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";

export interface LeftoversOptions {
  readonly store: Store;
  readonly pools: Pools;
  /** Whether a disk is being made, and its row is still to come. */
  readonly isMaking: (diskUid: string) => boolean;
  readonly log: Logger;
}

/** Returns the whole ones as POOL/NAME. A pool that cannot be asked is passed over. */
export async function removeLeftovers({ store, pools, isMaking, log }: LeftoversOptions): Promise<string[]> {
  const strangers: string[] = [];
  for (const pool of pools.list()) {
    const backend = await pool.open(false).catch((error: unknown) => {
      log.warn({ err: error, pool: pool.name }, "the pool cannot be used");
      return undefined;
    });
    for (const disk of (await backend?.list()) ?? []) {
      // Asked now, not when the list was made: a row may have come since.
      if (isMaking(disk.uid) || isPromised(store, disk)) continue;
      if (disk.whole) strangers.push(`${pool.name}/${disk.name}`);
      else {
        log.info({ disk: disk.name, uid: disk.uid }, "removing a disk that was not finished");
        await backend?.remove(disk).catch((error: unknown) => log.warn({ err: error }, "removing it failed"));
      }
    }
  }
  return strangers;
}

/** Whether a row speaks of a disk. */
function isPromised({ volumes, snapshots, imageBases }: Store, { uid }: Disk): boolean {
  return volumes.ownerOfDisk(uid) !== undefined || snapshots.byDisk(uid) !== undefined || imageBases.hasDisk(uid);
}
