/** What is looked up of volumes when somebody asks: their disks and mounts as they are now. */
import type { Store } from "../../store/store.ts";
import { volumeMount, volumeMountsDir } from "../layout.ts";
import type { Disk } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";
import { mountsBelow } from "../tools/mount.ts";

export interface DiskFacts {
  readonly usedBytes: bigint;
  readonly sizeBytes: bigint;
  readonly mounted: boolean;
}

/** How old an answer about disks may be, in milliseconds: a list asked for again and again must not run a tool each time. */
const factsMs = 1_000;

export class VolumeFacts {
  readonly #store: Store;
  readonly #pools: Pools;
  #disks: { readonly at: number; readonly byUid: Promise<ReadonlyMap<string, Disk>> } | undefined;

  constructor(store: Store, pools: Pools) {
    this.#store = store;
    this.#pools = pools;
  }

  /** By the volume's uid; nothing of those in a pool that cannot be asked. */
  async all(): Promise<ReadonlyMap<string, DiskFacts>> {
    const now = performance.now();
    if (this.#disks === undefined || now - this.#disks.at > factsMs)
      this.#disks = { at: now, byUid: this.#listDisks() };
    const disks = await this.#disks.byUid;
    const mounted = new Set((await mountsBelow(volumeMountsDir)).map(({ target }) => target));
    const facts = new Map<string, DiskFacts>();
    for (const { uid, diskUid } of this.#store.volumes.list()) {
      const { usedBytes = 0, sizeBytes = 0 } = disks.get(diskUid) ?? {};
      const isMounted = mounted.has(volumeMount(uid));
      facts.set(uid, { usedBytes: BigInt(usedBytes), sizeBytes: BigInt(sizeBytes), mounted: isMounted });
    }
    return facts;
  }

  /** Disks of all pools that can be asked, by uid. */
  async #listDisks(): Promise<ReadonlyMap<string, Disk>> {
    const disks = new Map<string, Disk>();
    for (const pool of this.#pools.list()) {
      const backend = await pool.open(false).catch(() => undefined);
      for (const disk of (await backend?.list().catch(() => [])) ?? []) disks.set(disk.uid, disk);
    }
    return disks;
  }
}
