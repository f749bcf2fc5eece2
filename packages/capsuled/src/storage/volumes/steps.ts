/** Carries out one step of a volume's plan. Each may be cut at any point and run again from there. */
import { CapsuleError } from "../../errors.ts";
import type { Store } from "../../store/store.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { volumeDisk, volumeMount } from "../layout.ts";
import type { Pools } from "../pool/pools.ts";
import { clearErrors, damaged, formatExt4, growMounted, growUnmounted } from "../tools/ext4.ts";
import { mountsBelow } from "../tools/mount.ts";
import { unmountVolume } from "./mounts.ts";
import type { Step } from "./plan.ts";

export interface StepContext {
  readonly uid: string;
  /** Undefined only for `unmount`. */
  readonly record: VolumeRecord | undefined;
  readonly store: Store;
  readonly pools: Pools;
  /** Of disks, by uid: what e2fsck found wrong. */
  readonly damage: Map<string, string>;
}

/** The controller itself looks after snapshots. */
type Executable = Exclude<Step, { kind: "none" | "removeSnapshots" }>;
type Of<K extends Executable["kind"]> = Extract<Executable, { kind: K }>;
/** A step for which there is a record. */
type Context = StepContext & { readonly record: VolumeRecord };

/** False when the step could not have its effect now, and need not. */
export async function executeStep(step: Executable, context: StepContext): Promise<boolean> {
  if (step.kind === "unmount") {
    await unmountVolume(context.uid);
    return true;
  }
  const { record } = context;
  if (record === undefined) throw new CapsuleError("internal", `step ${step.kind} of no volume`);
  return (await executors[step.kind](step as never, { ...context, record })) ?? true;
}

const executors: {
  [K in Exclude<Executable["kind"], "unmount">]: (step: Of<K>, context: Context) => Promise<boolean | undefined>;
} = {
  create: async ({ sizeBytes }, { record, store, pools }) => {
    const { name, diskUid, spec, pool } = record;
    const kept = store.volumes.list().some((one) => one.pool === pool && one.provisioned);
    // Where volumes have been, a pool that is not there is a fault, and no new one hides it.
    const backend = kept ? await pools.get(pool).use() : await pools.get(pool).open(true);
    if (backend === undefined) throw new CapsuleError("internal", `pool ${pool} was not made`);
    const id = { name: volumeDisk(name), uid: diskUid };
    await backend.create(id, sizeBytes);
    const { ownerUid = 0, ownerGid = 0 } = spec.filesystem ?? {};
    await formatExt4(await backend.pathOf(id), { label: name, ownerUid, ownerGid });
    await backend.publish(id, id.name);
    return undefined;
  },
  discard: async ({ disk }, { record, pools }) => {
    await (await pools.get(record.pool).use()).remove(disk);
    return undefined;
  },
  move: async ({ disk, name }, { record, pools }) => {
    await (await pools.get(record.pool).use()).publish(disk, name);
    return undefined;
  },
  place: async ({ disk }, { record, pools }) => {
    await (await pools.get(record.pool).use()).publish(disk, volumeDisk(record.name));
    return undefined;
  },
  provision: async (_, { record, store }) => {
    store.volumes.setProvisioned(record.uid);
    return undefined;
  },
  growDisk: async ({ disk, sizeBytes }, { record, pools }) => {
    await (await pools.get(record.pool).use()).grow(disk, sizeBytes);
    return undefined;
  },
  growFilesystem: async ({ disk }, { uid, record, pools }) => {
    const backend = await pools.get(record.pool).use();
    const mounted = (await mountsBelow(volumeMount(uid)))[0];
    if (mounted !== undefined) {
      // A cut may have come between the disk's growth and the device's.
      await backend.grow(disk, disk.sizeBytes);
      return await growMounted(mounted.source);
    }
    await growUnmounted(await backend.pathOf(disk), record.name);
    return undefined;
  },
  verify: async ({ disk }, { record, pools, damage }) => {
    const { state, report } = await clearErrors(await (await pools.get(record.pool).use()).pathOf(disk));
    if (state !== "damaged") return true;
    damage.set(disk.uid, damaged(record.name, report).message);
    return false;
  },
  removeDisk: async ({ disk }, { record, pools, damage }) => {
    damage.delete(disk.uid);
    await (await pools.get(record.pool).use()).remove(disk);
    return undefined;
  },
  forget: async (_, { record, store }) => {
    store.transaction(() => {
      store.volumes.remove(record.uid);
      store.events.removeOf("volume", record.name);
    });
    return undefined;
  },
};
