/** Checks and repairs of volumes' filesystems by e2fsck. */
import { EventType } from "@capsule/api";
import { CapsuleError } from "../../errors.ts";
import type { Store } from "../../store/store.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { volumeDisk, volumeMount } from "../layout.ts";
import type { Pools } from "../pool/pools.ts";
import { type CheckResult, checkExt4, readSuperblock, repairExt4, replayJournal } from "../tools/ext4.ts";
import { isMounted } from "../tools/mount.ts";
import type { VolumeController } from "./controller.ts";
import { addEvent } from "./reports.ts";
import { inUse, type Snapshots, stamp } from "./snapshots.ts";

export interface RepairsOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly controller: VolumeController;
  readonly snapshots: Snapshots;
}

export class Repairs {
  readonly #options: RepairsOptions;

  constructor(options: RepairsOptions) {
    this.#options = options;
  }

  /** Of a copy that is gone afterwards: the volume may be in use, and nothing of it changes. */
  async check(volume: VolumeRecord): Promise<CheckResult> {
    const { backend, disk, release } = await this.#options.snapshots.takeCopy(volume, "");
    try {
      const path = await backend.pathOf(disk);
      // What a mount would do first; without a superblock there is nothing to replay.
      if ((await readSuperblock(path)) !== undefined) await replayJournal(path);
      return await checkExt4(path);
    } finally {
      release();
      await backend.remove(disk);
    }
  }

  /**
   * Keeps what the volume holds as a snapshot, then repairs. Throws `precondition` while it is in use, and with the words
   * of e2fsck when something could not be repaired.
   */
  async repair(volume: VolumeRecord): Promise<CheckResult & { readonly before: string }> {
    const { store, pools, controller, snapshots } = this.#options;
    const holders = controller.holdersOf(volume.uid);
    if (holders.length > 0) throw inUse(volume.name, holders, "");
    const before = `before-repair-${stamp(new Date())}`;
    await snapshots.create(volume, before);
    return await controller.exclusive(volume.uid, async () => {
      await controller.advance(volume.uid);
      const now = controller.holdersOf(volume.uid);
      if (now.length > 0 || (await isMounted(volumeMount(volume.uid)))) throw inUse(volume.name, now, "");
      const backend = await pools.get(volume.pool).use();
      const uid = store.volumes.byUid(volume.uid)?.diskUid ?? "";
      const path = await backend.pathOf({ name: volumeDisk(volume.name), uid });
      if ((await readSuperblock(path)) !== undefined) await replayJournal(path);
      const found = await checkExt4(path);
      const result = found.state === "clean" ? found : await repairExt4(path);
      await controller.advance(volume.uid);
      const message = `e2fsck: ${result.state}; what it held before is snapshot ${before}`;
      const type = result.state === "damaged" ? EventType.WARNING : EventType.NORMAL;
      addEvent(store, volume, { type, reason: "Repaired", message });
      if (result.state !== "damaged") return { ...result, before };
      throw new CapsuleError(
        "precondition",
        `Volume "${volume.name}" could not be repaired whole: ${result.report.split("\n").slice(0, 3).join("; ")}. ` +
          `What it held before is snapshot ${before}.`,
        { reason: "NOT_REPAIRED", metadata: { volume: volume.name } },
      );
    });
  }
}
