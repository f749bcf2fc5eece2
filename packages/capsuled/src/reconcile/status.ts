/** From a plan and what was seen to the status of a workload. Pure. */
import { create } from "@bufbuild/protobuf";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type WorkloadStatus, WorkloadStatusSchema } from "@capsule/api";
import type { Observed, TaskState } from "../runtime/driver.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import type { Memory } from "./memory.ts";
import type { Plan } from "./planner.ts";

export function statusOf(
  record: WorkloadRecord,
  seen: Observed | undefined,
  plan: Plan,
  memory: Memory,
  addresses: readonly string[],
  now: Date,
): WorkloadStatus {
  const before = record.status;
  // What is told of runs is told of this version of the spec.
  const sameSpec = before.observedGeneration === BigInt(record.generation);
  const task = seen?.task;
  const runs = task?.state === "running" || task?.state === "paused";
  const known = task?.state === "silent" && sameSpec ? before : undefined;
  const status = create(WorkloadStatusSchema, {
    phase: plan.phase,
    message: plan.message,
    observedGeneration: BigInt(record.generation),
    since: before.phase === plan.phase && before.since !== undefined ? before.since : timestampFromDate(now),
    pid: runs ? task.pid : (known?.pid ?? 0),
    restartCount: sameSpec ? before.restartCount : 0,
    addresses: runs ? [...addresses] : (known?.addresses ?? []),
    imageDigest: seen?.imageDigest ?? "",
    paused: task?.state === "paused" || known?.paused === true,
  });
  const startedAt = runs && sameSpec ? timestampFromDate(task.startedAt) : sameSpec ? before.startedAt : undefined;
  if (startedAt !== undefined) status.startedAt = startedAt;
  if (before.lastExit !== undefined && sameSpec) status.lastExit = before.lastExit;
  if (plan.wakeAt !== undefined) status.nextRetryAt = timestampFromDate(plan.wakeAt);
  if (memory.progress !== undefined && plan.step.kind === "pull") {
    status.pull = { $typeName: "capsule.v1.TransferProgress", ...memory.progress };
  }
  return status;
}

/** The end of a run that the status does not tell of yet. */
export function newExit(
  record: WorkloadRecord,
  seen: Observed | undefined,
): (Extract<TaskState, { state: "stopped" }> & { readonly ranMs: number }) | undefined {
  if (seen?.task.state !== "stopped") return undefined;
  const { finishedAt } = seen.task;
  const known = record.status.lastExit?.finishedAt;
  if (known !== undefined && timestampDate(known).getTime() === finishedAt.getTime()) return undefined;
  const startedAt = record.status.startedAt;
  const ranMs = startedAt === undefined ? 0 : Math.max(0, finishedAt.getTime() - timestampDate(startedAt).getTime());
  return { ...seen.task, ranMs };
}
