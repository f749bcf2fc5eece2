/**
 * Decides the next step of one workload. Pure: what is wanted, what was seen and what is remembered come in as data, the
 * clock too. One step at a time: after it the world is looked at again, so that a step may be cut at any point.
 */
import { Phase } from "@capsule/api";
import type { TaskState } from "../runtime/driver.ts";

/** What the operator wants. */
export interface Wanted {
  readonly state: "running" | "paused" | "stopped" | "deleted";
  readonly generation: number;
  /** A restart was asked for and not carried out yet. */
  readonly restart: boolean;
  readonly restartPolicy: "always" | "onFailure" | "never";
  readonly pullPolicy: "ifNotPresent" | "always" | "never";
}

/** What the runtime has of it. */
export interface Seen {
  readonly generation: number;
  readonly imageDigest: string;
  readonly task: TaskState;
}

/** The image as far as it matters now. `fresh`: this capsuled pulled it for this generation. */
export type ImageState =
  | { readonly state: "unknown" }
  | { readonly state: "absent" }
  | { readonly state: "present"; readonly digest: string; readonly fresh: boolean };

/** What earlier passes left. */
export interface Remembered {
  /** Phase that the status has, and the generation that it speaks of. */
  readonly phase: Phase;
  readonly phaseGeneration: number;
  /** The last try failed: what it said, and when the next one may be made. */
  readonly failure: { readonly message: string; readonly retryAt: Date } | undefined;
}

export interface Context {
  readonly now: Date;
  readonly imageName: string;
  /** The capsule goes down: everything is stopped, nothing is started. */
  readonly goingDown: boolean;
}

export type Step =
  | { readonly kind: "none" }
  | { readonly kind: "pull" }
  | { readonly kind: "start"; readonly digest: string }
  | { readonly kind: "stop" }
  | { readonly kind: "pause" }
  | { readonly kind: "resume" }
  /** Ends it in order if it runs, then removes what the runtime has. */
  | { readonly kind: "remove" }
  /** Nothing is left of a deleted workload: its record goes. */
  | { readonly kind: "forget" };

export interface Plan {
  readonly step: Step;
  readonly phase: Phase;
  /** Why, for people; never empty. */
  readonly message: string;
  /** Look again at this time; undefined: when something happens. */
  readonly wakeAt?: Date;
}

/** Whether the image must be looked up before `plan` can decide. */
export function needsImage(wanted: Wanted, seen: Seen | undefined, context: Context): boolean {
  if (wanted.state !== "running" || context.goingDown) return false;
  return !isRunning(seen) || wanted.restart || seen.generation !== wanted.generation;
}

export function plan(
  wanted: Wanted,
  seen: Seen | undefined,
  image: ImageState,
  remembered: Remembered,
  context: Context,
): Plan {
  if (wanted.state === "deleted") return planDeleted(seen, remembered, context);
  if (context.goingDown) return planGoingDown(wanted, seen, remembered);
  if (wanted.state === "stopped") return planStopped(seen, remembered, context);
  if (wanted.state === "paused") return planPaused(seen, remembered, context);
  return planRunning(wanted, seen, image, remembered, context);
}

function planDeleted(seen: Seen | undefined, remembered: Remembered, context: Context): Plan {
  const waits = waiting(remembered, context, Phase.DELETING);
  if (waits !== undefined) return waits;
  if (seen === undefined)
    return { step: { kind: "forget" }, phase: Phase.DELETING, message: "Removing the last of it" };
  return {
    step: { kind: "remove" },
    phase: Phase.DELETING,
    message: isRunning(seen) ? "Stopping, to be deleted" : "Removing",
  };
}

function planGoingDown(wanted: Wanted, seen: Seen | undefined, remembered: Remembered): Plan {
  if (isRunning(seen)) {
    return { step: { kind: "stop" }, phase: Phase.STOPPING, message: "Stopping: the capsule is going down" };
  }
  if (wanted.state === "stopped") {
    return { step: none, phase: Phase.STOPPED, message: "Stopped by request" };
  }
  if (hasEnded(wanted, seen, remembered)) return ended(wanted, seen);
  return { step: none, phase: Phase.PENDING, message: "Stopped with the capsule; starts with it again" };
}

function planStopped(seen: Seen | undefined, remembered: Remembered, context: Context): Plan {
  if (!isRunning(seen)) return { step: none, phase: Phase.STOPPED, message: "Stopped by request" };
  const waits = waiting(remembered, context, Phase.STOPPING);
  return waits ?? { step: { kind: "stop" }, phase: Phase.STOPPING, message: "Stopping by request" };
}

/** Also one that has drifted stays as it is: it is replaced when it is wanted running again. */
function planPaused(seen: Seen | undefined, remembered: Remembered, context: Context): Plan {
  if (!isRunning(seen)) {
    return { step: none, phase: Phase.STOPPED, message: "It ended while it was paused; `workload resume` starts it" };
  }
  if (seen.task.state === "paused") return { step: none, phase: Phase.RUNNING, message: "Paused by request" };
  const waits = waiting(remembered, context, Phase.RUNNING);
  return waits ?? { step: { kind: "pause" }, phase: Phase.RUNNING, message: "Pausing by request" };
}

function planRunning(
  wanted: Wanted,
  seen: Seen | undefined,
  image: ImageState,
  remembered: Remembered,
  context: Context,
): Plan {
  const current = seen?.generation === wanted.generation;
  if (isRunning(seen) && current && !wanted.restart) {
    if (seen.task.state === "running") return { step: none, phase: Phase.RUNNING, message: "Running" };
    if (seen.task.state === "silent") return planSilent(wanted, remembered, context);
    const waits = waiting(remembered, context, Phase.RUNNING);
    return waits ?? { step: { kind: "resume" }, phase: Phase.RUNNING, message: "Resuming" };
  }
  if (!wanted.restart && (seen === undefined || current) && hasEnded(wanted, seen, remembered)) {
    return ended(wanted, seen);
  }
  const still = isRunning(seen) ? "; the one before runs on until then" : "";
  const waits = waiting(remembered, context, Phase.FAILED, still);
  if (waits !== undefined) return waits;

  // The image comes first: while it is fetched, or cannot be, the instance that runs goes on.
  const restartInPlace = current && !(wanted.restart && image.state === "present" && image.digest !== seen.imageDigest);
  const mustPull = image.state !== "present" || (wanted.pullPolicy === "always" && !image.fresh && !current);
  if (mustPull && !(restartInPlace && image.state === "absent" && seen !== undefined)) {
    if (wanted.pullPolicy === "never") {
      return {
        step: none,
        phase: Phase.FAILED,
        message: `Image ${context.imageName} is not on the capsule and imagePullPolicy is NEVER; push it by \`capsulectl image push\``,
        wakeAt: new Date(context.now.getTime() + 60_000),
      };
    }
    return { step: { kind: "pull" }, phase: Phase.PULLING, message: `Pulling ${context.imageName}${still}` };
  }
  if (isRunning(seen)) {
    return restartInPlace
      ? { step: { kind: "stop" }, phase: Phase.STOPPING, message: "Stopping, to be restarted" }
      : { step: { kind: "remove" }, phase: Phase.STOPPING, message: "Stopping, to be replaced by the new version" };
  }
  if (seen !== undefined && !restartInPlace) {
    return { step: { kind: "remove" }, phase: Phase.STARTING, message: "Removing the version before" };
  }
  // A restart in place does not need the image by name: its root filesystem exists.
  const digest = image.state === "present" ? image.digest : (seen?.imageDigest ?? "");
  return { step: { kind: "start", digest }, phase: Phase.STARTING, message: "Starting" };
}

/** One that ran goes on, as far as is known; a start that was cut is made again. */
function planSilent(wanted: Wanted, remembered: Remembered, context: Context): Plan {
  const ran = remembered.phase === Phase.RUNNING && remembered.phaseGeneration === wanted.generation;
  if (ran) {
    const message = "Running when it was last seen; what looks after it does not answer";
    return { step: none, phase: Phase.RUNNING, message, wakeAt: new Date(context.now.getTime() + askAgainMs) };
  }
  const waits = waiting(remembered, context, Phase.STARTING);
  return waits ?? { step: { kind: "stop" }, phase: Phase.STARTING, message: "Ending a start that was cut" };
}

const none: Step = { kind: "none" };
/** How soon one that does not answer is looked at again, in milliseconds. */
const askAgainMs = 2_000;

function waiting({ failure }: Remembered, { now }: Context, phase: Phase, still = ""): Plan | undefined {
  if (failure === undefined || failure.retryAt <= now) return undefined;
  return { step: none, phase, message: failure.message + still, wakeAt: failure.retryAt };
}

type Running = Seen & { readonly task: { readonly state: "running" | "paused" | "silent" } };
const runningStates: readonly string[] = ["running", "paused", "silent"];

/** Also one that may run. */
function isRunning(seen: Seen | undefined): seen is Running {
  return seen !== undefined && runningStates.includes(seen.task.state);
}

/** Whether it ran to its end and its restart policy leaves it there. */
function hasEnded(wanted: Wanted, seen: Seen | undefined, remembered: Remembered): boolean {
  if (wanted.restartPolicy === "always") return false;
  if (seen?.task.state === "stopped") return wanted.restartPolicy === "never" || seen.task.exitCode === 0;
  // No task: after a boot of the capsule. What the status says is then all that is known.
  if (remembered.phaseGeneration !== wanted.generation || remembered.failure !== undefined) return false;
  const known = remembered.phase === Phase.STOPPED || remembered.phase === Phase.FAILED;
  if (wanted.restartPolicy === "onFailure") return remembered.phase === Phase.STOPPED;
  return known || remembered.phase === Phase.RUNNING;
}

function ended(wanted: Wanted, seen: Seen | undefined): Plan {
  const policy = wanted.restartPolicy === "never" ? "NEVER" : "ON_FAILURE";
  if (seen?.task.state !== "stopped") {
    return {
      step: none,
      phase: Phase.STOPPED,
      message: `Ended before the capsule was booted; restartPolicy is ${policy}`,
    };
  }
  const { exitCode, outOfMemory, reason } = seen.task;
  if (reason !== undefined)
    return { step: none, phase: Phase.FAILED, message: `${reason}; restartPolicy is ${policy}` };
  const why = outOfMemory ? `Killed: it used more memory than its limit (exit code ${exitCode})` : exitText(exitCode);
  return {
    step: none,
    phase: exitCode === 0 ? Phase.STOPPED : Phase.FAILED,
    message: exitCode === 0 ? "Completed with exit code 0" : `${why}; restartPolicy is ${policy}`,
  };
}

/** Such as "Exited with code 1" or "Killed by signal 9". */
export function exitText(exitCode: number): string {
  return exitCode > 128 && exitCode < 160 ? `Killed by signal ${exitCode - 128}` : `Exited with code ${exitCode}`;
}
