import { ImagePullPolicy, RestartPolicy } from "@capsule/api";
import type { WorkloadRecord } from "../store/workloads.ts";
import type { Wanted } from "./planner.ts";

/** What a record asks for, with its defaults filled in. */
export function wantedOf(record: WorkloadRecord): Wanted {
  const spec = record.spec.kind.value;
  return {
    state: record.deleting ? "deleted" : record.paused ? "paused" : record.desired,
    generation: record.generation,
    restart: record.restartsDone < record.restartsWanted,
    restartPolicy: restartPolicies[spec?.restartPolicy ?? RestartPolicy.UNSPECIFIED],
    pullPolicy: pullPolicies[spec?.imagePullPolicy ?? ImagePullPolicy.UNSPECIFIED],
  };
}

const restartPolicies: Record<RestartPolicy, Wanted["restartPolicy"]> = {
  [RestartPolicy.UNSPECIFIED]: "always",
  [RestartPolicy.ALWAYS]: "always",
  [RestartPolicy.ON_FAILURE]: "onFailure",
  [RestartPolicy.NEVER]: "never",
};

const pullPolicies: Record<ImagePullPolicy, Wanted["pullPolicy"]> = {
  [ImagePullPolicy.UNSPECIFIED]: "ifNotPresent",
  [ImagePullPolicy.IF_NOT_PRESENT]: "ifNotPresent",
  [ImagePullPolicy.ALWAYS]: "always",
  [ImagePullPolicy.NEVER]: "never",
};
