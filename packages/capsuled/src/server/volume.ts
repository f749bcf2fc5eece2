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
import type { RuntimeDriver } from "../runtime/driver.ts";
import type { StorageStatus } from "../storage/substrate/status.ts";
import type { VolumeController } from "../storage/volumes/controller.ts";
import type { Exports } from "../storage/volumes/exports.ts";
import type { DiskFacts } from "../storage/volumes/facts.ts";
import type { Imports } from "../storage/volumes/imports.ts";
import type { VolumeManager } from "../storage/volumes/manager.ts";
import type { Repairs } from "../storage/volumes/repairs.ts";
import type { VolumeSessions } from "../storage/volumes/sessions.ts";
import type { SnapshotFacts, Snapshots } from "../storage/volumes/snapshots.ts";
import type { Store } from "../store/store.ts";
import type { VolumeRecord } from "../store/volumes.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";
import { volumeSession } from "./volume-session.ts";

export interface VolumeServiceOptions {
  readonly store: Store;
  readonly manager: VolumeManager;
  readonly controller: VolumeController;
  readonly snapshots: Snapshots;
  readonly exports: Exports;
  readonly imports: Imports;
  readonly repairs: Repairs;
  readonly sessions: VolumeSessions;
  readonly driver: RuntimeDriver;
  readonly storage: StorageStatus;
}

export function volumeService({
  store,
  manager,
  controller,
  snapshots,
  exports,
  imports,
  repairs,
  sessions,
  driver,
  storage,
}: VolumeServiceOptions): ServiceImpl<typeof VolumeService> {
  const messageOf = (record: VolumeRecord, facts: ReadonlyMap<string, DiskFacts>): Volume => {
    const { spec, status, createdAt, uid, name } = record;
    const usedBy = store.volumeClaims.users(name).map((user) => user.name);
    const seen = { ...status, ...facts.get(uid), usedBy };
    return create(VolumeSchema, { spec, status: seen, createdAt: timestampFromDate(createdAt), uid });
  };
  const described = async (record: VolumeRecord): Promise<Volume> => messageOf(record, await controller.facts.all());
  return {
    async createVolume({ spec }) {
      refuseDegraded(storage);
      return { volume: await described(manager.create(required(spec))) };
    },
    async getVolume({ name }) {
      return { volume: await described(manager.get(name)) };
    },
    async listVolumes({ names, labels }) {
      for (const name of names) manager.get(name);
      const wanted = new Set(names);
      const facts = await controller.facts.all();
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
    async *exportVolume({ volume, snapshot, exportId, firstChunk }, context) {
      const { signal } = callOf(context);
      const first = Number(firstChunk);
      const parts =
        exportId === ""
          ? exports.begin(manager.get(volume), snapshot, first, signal)
          : exports.resume(exportId, first, signal);
      for await (const part of parts) {
        if (part.kind === "start") {
          const { exportId: id, sizeBytes, chunks } = part.start;
          const start = { exportId: id, sizeBytes: BigInt(sizeBytes), chunks: BigInt(chunks) };
          yield { output: { case: "start" as const, value: start } };
        } else {
          const data = { data: part.bytes, nextChunk: BigInt(part.nextChunk) };
          yield { output: { case: "data" as const, value: data } };
        }
      }
    },
    async importVolume(requests) {
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start")
        throw new CapsuleError("invalid", "The first message of the stream must be `start`.", { reason: "NO_START" });
      const { spec, importId, firstChunk } = first.input.value;
      refuseDegraded(storage);
      const data = (async function* () {
        for await (const { input } of rest) {
          if (input.case === "data") yield input.value;
          if (input.case === "abandoned") throw new CapsuleError("invalid", "The import was given up by its caller.");
        }
      })();
      return { volume: await described(await imports.receive(importId, required(spec), Number(firstChunk), data)) };
    },
    async getImport({ importId }) {
      return { nextChunk: BigInt(imports.nextChunk(importId)) };
    },
    async checkVolume({ name }) {
      const { state, report } = await repairs.check(manager.get(name));
      return { clean: state === "clean", report };
    },
    async repairVolume({ name }) {
      const { state, report, before } = await repairs.repair(manager.get(name));
      return { report, before, changed: state === "repaired" };
    },
    ...volumeSession({ manager, sessions, driver }),
    async setSnapshotSchedule({ volume, schedule, keep }) {
      return { volume: await described(manager.setSchedule(volume, schedule, keep)) };
    },
  };
}

function refuseDegraded({ state, message }: StorageStatus): void {
  if (state === "degraded")
    throw new CapsuleError("precondition", `Nothing can be kept: ${message}`, { reason: "STORAGE_DEGRADED" });
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
