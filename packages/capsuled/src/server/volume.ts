/** VolumeService: what is wanted of volumes, and what is. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type Snapshot,
  SnapshotOrigin,
  SnapshotSchema,
  type Volume,
  VolumeSchema,
  type VolumeService,
  type VolumeSpec,
} from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import type { DiskFacts, VolumeController } from "../storage/volumes/controller.ts";
import type { VolumeManager } from "../storage/volumes/manager.ts";
import type { SnapshotFacts, Snapshots } from "../storage/volumes/snapshots.ts";
import type { Store } from "../store/store.ts";
import type { VolumeRecord } from "../store/volumes.ts";
import type { StorageStatus } from "../system/storage-status.ts";
import { callOf } from "./call.ts";

export interface VolumeServiceOptions {
  readonly store: Store;
  readonly manager: VolumeManager;
  readonly controller: VolumeController;
  readonly snapshots: Snapshots;
  readonly storage: StorageStatus;
}

export function volumeService({
  store,
  manager,
  controller,
  snapshots,
  storage,
}: VolumeServiceOptions): ServiceImpl<typeof VolumeService> {
  const messageOf = (record: VolumeRecord, facts: ReadonlyMap<string, DiskFacts>): Volume => {
    const { spec, status, createdAt, uid, name } = record;
    const usedBy = store.volumeClaims.users(name).map((user) => user.name);
    const seen = { ...status, ...facts.get(uid), usedBy };
    return create(VolumeSchema, { spec, status: seen, createdAt: timestampFromDate(createdAt), uid });
  };
  const described = async (record: VolumeRecord): Promise<Volume> => messageOf(record, await controller.facts());
  return {
    async createVolume({ spec }) {
      if (storage.state === "degraded")
        throw new CapsuleError("precondition", `Nothing can be kept: ${storage.message}`, {
          reason: "STORAGE_DEGRADED",
        });
      return { volume: await described(manager.create(required(spec))) };
    },
    async getVolume({ name }) {
      return { volume: await described(manager.get(name)) };
    },
    async listVolumes({ names, labels }) {
      for (const name of names) manager.get(name);
      const wanted = new Set(names);
      const facts = await controller.facts();
      const matching = store.volumes
        .list()
        .filter(
          ({ name, spec }) =>
            (wanted.size === 0 || wanted.has(name)) &&
            Object.entries(labels).every(([key, value]) => spec.labels[key] === value),
        );
      return { volumes: matching.map((record) => messageOf(record, facts)) };
    },
    async resizeVolume({ name, sizeBytes }) {
      return { volume: await described(manager.resize(name, sizeBytes)) };
    },
    async deleteVolumes({ names, force, snapshots: withSnapshots }) {
      manager.delete(names, { force, withSnapshots });
      return {};
    },
    async createSnapshot({ volume, name }) {
      const record = await snapshots.create(manager.get(volume), name);
      return { snapshot: snapshotOf(volume, { record, missing: false, exclusiveBytes: undefined }) };
    },
    async listSnapshots({ volume }) {
      const found = await snapshots.list(manager.get(volume));
      return { snapshots: found.map((one) => snapshotOf(volume, one)) };
    },
    async deleteSnapshots({ volume, names }) {
      await snapshots.delete(manager.get(volume), names);
      return {};
    },
    async restoreSnapshot({ volume, snapshot, newVolume, stop }, context) {
      const record = manager.get(volume);
      if (newVolume !== "") {
        return { volume: await described(await snapshots.restoreAs(record, snapshot, newVolume)), before: "" };
      }
      const before = await snapshots.restore(record, snapshot, stop, callOf(context).signal);
      return { volume: await described(manager.get(volume)), before };
    },
    async setSnapshotSchedule({ volume, schedule, keep }) {
      return { volume: await described(manager.setSchedule(volume, schedule, keep)) };
    },
  };
}

function required(spec: VolumeSpec | undefined): VolumeSpec {
  if (spec !== undefined) return spec;
  const description = "a volume is needed";
  throw new CapsuleError("invalid", `spec: ${description}`, { violations: [{ path: "spec", description }] });
}

const origins: Record<SnapshotFacts["record"]["origin"], SnapshotOrigin> = {
  manual: SnapshotOrigin.MANUAL,
  schedule: SnapshotOrigin.SCHEDULE,
  restore: SnapshotOrigin.RESTORE,
};

function snapshotOf(volume: string, { record, missing, exclusiveBytes }: SnapshotFacts): Snapshot {
  const { name, createdAt, sizeBytes, origin } = record;
  return create(SnapshotSchema, {
    name,
    volume,
    createdAt: timestampFromDate(createdAt),
    sizeBytes: BigInt(sizeBytes),
    ...(exclusiveBytes === undefined ? {} : { exclusiveBytes: BigInt(exclusiveBytes) }),
    origin: origins[origin],
    missing,
  });
}
