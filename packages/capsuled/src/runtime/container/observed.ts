/** What containerd knows of a workload, as the reconciler wants to see it. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Container } from "../../gen/containerd/github.com/containerd/containerd/api/services/containers/v1/containers_pb.js";
import { type Process, Status } from "../../gen/containerd/github.com/containerd/containerd/api/types/task/task_pb.js";
import type { Observed, TaskState } from "../driver.ts";
import { wasOutOfMemory } from "./cgroups.ts";
import { startTimeOf } from "./process.ts";

/** Of a container record: what it was made for. */
export const label = {
  name: "capsule.workload",
  generation: "capsule.generation",
  imageDigest: "capsule.image-digest",
  stopSignal: "capsule.stop-signal",
} as const;

export function observedOf(container: Container, task: TaskState): Observed {
  return {
    uid: container.id,
    name: container.labels[label.name] ?? container.id,
    generation: Number(container.labels[label.generation] ?? 0),
    imageDigest: container.labels[label.imageDigest] ?? "",
    task,
  };
}

export async function stateOf(uid: string, process: Process | undefined): Promise<TaskState> {
  if (process === undefined) return { state: "none" };
  const { pid } = process;
  switch (process.status) {
    case Status.RUNNING:
      return { state: "running", pid, startedAt: await startTimeOf(pid) };
    case Status.PAUSED:
    case Status.PAUSING:
      return { state: "paused", pid, startedAt: await startTimeOf(pid) };
    case Status.STOPPED: {
      const finishedAt = process.exitedAt === undefined ? new Date(0) : timestampDate(process.exitedAt);
      return { state: "stopped", exitCode: process.exitStatus, finishedAt, outOfMemory: await wasOutOfMemory(uid) };
    }
    case Status.CREATED:
      return { state: "created", pid };
    // containerd gives a shim two seconds, and asks no more then; on a busy machine that says nothing of the container.
    case Status.UNKNOWN:
      return { state: "silent" };
  }
}
