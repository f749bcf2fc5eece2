/** VolumeService: what is wanted of volumes, and what is. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Volume, VolumeSchema, type VolumeService, type VolumeSpec } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import type { DiskFacts, VolumeController } from "../storage/volumes/controller.ts";
import type { VolumeManager } from "../storage/volumes/manager.ts";
import type { Store } from "../store/store.ts";
import type { VolumeRecord } from "../store/volumes.ts";
import type { StorageStatus } from "../system/storage-status.ts";

export interface VolumeServiceOptions {
  readonly store: Store;
  readonly manager: VolumeManager;
  readonly controller: VolumeController;
  readonly storage: StorageStatus;
}

export function volumeService({
  store,
  manager,
  controller,
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
    async deleteVolumes({ names, force }) {
      manager.delete(names, force);
      return {};
    },
  };
}

function required(spec: VolumeSpec | undefined): VolumeSpec {
  if (spec !== undefined) return spec;
  const description = "a volume is needed";
  throw new CapsuleError("invalid", `spec: ${description}`, { violations: [{ path: "spec", description }] });
}
