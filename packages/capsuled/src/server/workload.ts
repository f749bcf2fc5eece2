/** WorkloadService: what is wanted, and what is. What happens inside a workload is in workload-session.ts. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { RunState, type Workload, WorkloadSchema, type WorkloadService, type WorkloadStats } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import type { RuntimeDriver } from "../runtime/driver.ts";
import type { StorageStatus } from "../storage/substrate/status.ts";
import type { Change } from "../store/changes.ts";
import type { Store } from "../store/store.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import type { WorkloadManager } from "../workload/manager.ts";
import { StatsSampler } from "../workload/stats.ts";
import { callOf } from "./call.ts";
import { changesOf } from "./changes.ts";
import { eventsOf } from "./events.ts";
import { intervalMs, ticks } from "./ticks.ts";
import { workloadSession } from "./workload-session.ts";

export interface WorkloadServiceOptions {
  readonly store: Store;
  readonly manager: WorkloadManager;
  readonly driver: RuntimeDriver;
  readonly workloadsDir: string;
  readonly storage: StorageStatus;
}

export function workloadService(options: WorkloadServiceOptions): ServiceImpl<typeof WorkloadService> {
  const { store, manager, driver, storage } = options;
  return {
    async apply({ resources, dryRun }) {
      if (storage.state === "degraded" && !dryRun) {
        const message = `Nothing can be kept: ${storage.message}`;
        throw new CapsuleError("precondition", message, { reason: "STORAGE_DEGRADED" });
      }
      const results = manager.apply(resources, dryRun).map((one) => ({
        kind: one.kind,
        name: one.name,
        action: one.action,
        changes: one.changes.map((change) => ({ ...change })),
        generation: BigInt(one.generation),
        desired: runState(one.wanted),
      }));
      return { results };
    },
    async getWorkload({ name }) {
      return { workload: messageOf(manager.get(name)) };
    },
    async listWorkloads({ names, labels }) {
      const matches = matcher(names, labels);
      for (const name of names) manager.get(name);
      return { workloads: store.workloads.list().filter(matches).map(messageOf) };
    },
    async *watchWorkloads({ names, labels }, context) {
      const { signal } = callOf(context);
      const matches = matcher(names, labels);
      // Subscribed first: what changes while the list is sent comes again after it.
      const changes = changesOf(store, signal, isOfWorkload);
      for (const record of store.workloads.list()) {
        if (matches(record)) yield { change: { case: "workload" as const, value: messageOf(record) } };
      }
      yield { change: { case: "synced" as const, value: true } };
      for await (const change of changes) {
        if (!isOfWorkload(change)) continue;
        const record = store.workloads.byUid(change.uid);
        if (record !== undefined && matches(record))
          yield { change: { case: "workload" as const, value: messageOf(record) } };
        else if (record === undefined && (names.length === 0 || names.includes(change.name))) {
          yield { change: { case: "deleted" as const, value: change.name } };
        }
      }
    },
    async deleteWorkloads({ names }) {
      manager.delete(names);
      return {};
    },
    async startWorkload({ name }) {
      return { workload: messageOf(manager.start(name)) };
    },
    async stopWorkload({ name }) {
      return { workload: messageOf(manager.stop(name)) };
    },
    async pauseWorkload({ name }) {
      return { workload: messageOf(manager.pause(name)) };
    },
    async resumeWorkload({ name }) {
      return { workload: messageOf(manager.resume(name)) };
    },
    async restartWorkload({ name }) {
      return { workload: messageOf(manager.restart(name)) };
    },
    async *events({ name, ...wanted }, context) {
      if (name !== "") manager.get(name);
      yield* eventsOf(store, name === "" ? {} : { kinds: ["workload"], name }, wanted, callOf(context).signal);
    },
    async *stats({ names, interval }, context) {
      for (const name of names) manager.get(name);
      const sampler = new StatsSampler(store, driver);
      for await (const _ of ticks(intervalMs(interval), callOf(context).signal)) {
        const workloads: WorkloadStats[] = await sampler.sample(names);
        yield { workloads };
      }
    },
    ...workloadSession(options),
  };
}

function isOfWorkload(change: Change): change is Extract<Change, { readonly uid: string }> {
  return "uid" in change;
}

function matcher(
  names: readonly string[],
  labels: Readonly<Record<string, string>>,
): (record: WorkloadRecord) => boolean {
  const wantedNames = new Set(names);
  const wantedLabels = Object.entries(labels);
  return ({ name, spec }) =>
    (wantedNames.size === 0 || wantedNames.has(name)) &&
    wantedLabels.every(([key, value]) => spec.labels[key] === value);
}

export function messageOf(record: WorkloadRecord): Workload {
  const { spec, uid, generation, createdAt, updatedAt, status } = record;
  return create(WorkloadSchema, {
    spec,
    uid,
    generation: BigInt(generation),
    desired: runState(record),
    createdAt: timestampFromDate(createdAt),
    updatedAt: timestampFromDate(updatedAt),
    status,
  });
}

function runState({ desired, paused }: Pick<WorkloadRecord, "desired" | "paused">): RunState {
  if (paused) return RunState.PAUSED;
  return desired === "running" ? RunState.RUNNING : RunState.STOPPED;
}
