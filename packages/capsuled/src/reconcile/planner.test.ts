import assert from "node:assert/strict";
import { test } from "node:test";
import { Phase } from "@capsule/api";
import type { TaskState } from "../runtime/driver.ts";
import { type ImageState, needsImage, type Plan, plan, type Remembered, type Seen, type Wanted } from "./planner.ts";

const now = new Date("2026-01-01T00:00:00Z");
const later = new Date("2026-01-01T00:00:05Z");
const present: ImageState = { state: "present", digest: "sha256:a", fresh: false };

/** A case in words: what is wanted, what is there, and then what the plan must be. */
class Case {
  #wanted: Wanted = {
    state: "running",
    generation: 1,
    restart: false,
    restartPolicy: "always",
    pullPolicy: "ifNotPresent",
  };
  #seen: Seen | undefined;
  #image: ImageState = present;
  #remembered: Remembered = { phase: Phase.PENDING, phaseGeneration: 0, failure: undefined };
  #goingDown = false;

  wanted(change: Partial<Wanted>): this {
    this.#wanted = { ...this.#wanted, ...change };
    return this;
  }
  seen(task: TaskState["state"], generation = 1, exitCode = 0, imageDigest = "sha256:a"): this {
    const states: Record<TaskState["state"], TaskState> = {
      none: { state: "none" },
      created: { state: "created", pid: 7 },
      running: { state: "running", pid: 7, startedAt: now },
      paused: { state: "paused", pid: 7, startedAt: now },
      silent: { state: "silent" },
      stopped: { state: "stopped", exitCode, finishedAt: now, outOfMemory: exitCode === 137 },
    };
    this.#seen = { generation, imageDigest, task: states[task] };
    return this;
  }
  image(image: ImageState): this {
    this.#image = image;
    return this;
  }
  remembered(change: Partial<Remembered>): this {
    this.#remembered = { ...this.#remembered, ...change };
    return this;
  }
  goingDown(): this {
    this.#goingDown = true;
    return this;
  }
  plan(): Plan {
    const context = { now, imageName: "busybox:1", goingDown: this.#goingDown };
    // The reconciler looks the image up only when this says so.
    const image = needsImage(this.#wanted, this.#seen, context) ? this.#image : ({ state: "unknown" } as const);
    const made = plan(this.#wanted, this.#seen, image, this.#remembered, context);
    assert.notEqual(made.message, "");
    return made;
  }
  expect(step: Plan["step"]["kind"], phase: Phase, message?: RegExp): void {
    const made = this.plan();
    assert.deepEqual({ step: made.step.kind, phase: Phase[made.phase] }, { step, phase: Phase[phase] }, made.message);
    if (message !== undefined) assert.match(made.message, message);
  }
}

const aWorkload = (): Case => new Case();

test("a new workload: its image is pulled, then it starts", () => {
  aWorkload()
    .image({ state: "absent" })
    .expect("pull", Phase.PULLING, /busybox:1/);
  aWorkload().expect("start", Phase.STARTING);
});

test("one that runs as wanted is left alone", () => {
  aWorkload().seen("running").expect("none", Phase.RUNNING);
  aWorkload().seen("running").wanted({ pullPolicy: "always" }).expect("none", Phase.RUNNING);
});

test("what is left of a start that was cut is started again", () => {
  aWorkload().seen("none").expect("start", Phase.STARTING);
  aWorkload().seen("created").expect("start", Phase.STARTING);
});

test("a changed spec: the new image first, while the old instance runs; then it is replaced", () => {
  const changed = () => aWorkload().wanted({ generation: 2 });
  changed()
    .seen("running")
    .image({ state: "absent" })
    .expect("pull", Phase.PULLING, /runs on/);
  changed().seen("running").expect("remove", Phase.STOPPING);
  changed().seen("stopped").expect("remove", Phase.STARTING);
  changed().expect("start", Phase.STARTING);
});

test("imagePullPolicy ALWAYS pulls once for each version, not for each restart after a crash", () => {
  const always = () => aWorkload().wanted({ pullPolicy: "always" });
  always().expect("pull", Phase.PULLING);
  always().image({ state: "present", digest: "sha256:a", fresh: true }).expect("start", Phase.STARTING);
  always().seen("stopped", 1, 1).expect("start", Phase.STARTING);
});

test("imagePullPolicy NEVER without the image says what to do", () => {
  aWorkload()
    .wanted({ pullPolicy: "never" })
    .image({ state: "absent" })
    .expect("none", Phase.FAILED, /image push/);
});

test("restart policies", () => {
  aWorkload().seen("stopped", 1, 0).expect("start", Phase.STARTING);
  aWorkload().seen("stopped", 1, 3).expect("start", Phase.STARTING);
  const onFailure = () => aWorkload().wanted({ restartPolicy: "onFailure" });
  onFailure()
    .seen("stopped", 1, 0)
    .expect("none", Phase.STOPPED, /Completed/);
  onFailure().seen("stopped", 1, 3).expect("start", Phase.STARTING);
  const never = () => aWorkload().wanted({ restartPolicy: "never" });
  never()
    .seen("stopped", 1, 0)
    .expect("none", Phase.STOPPED, /Completed/);
  never()
    .seen("stopped", 1, 3)
    .expect("none", Phase.FAILED, /Exited with code 3/);
  never()
    .seen("stopped", 1, 137)
    .expect("none", Phase.FAILED, /more memory/);
  never().expect("start", Phase.STARTING);
});

test("after a boot nothing that had ended starts again, and everything else does", () => {
  const never = () => aWorkload().wanted({ restartPolicy: "never" });
  never().remembered({ phase: Phase.STOPPED, phaseGeneration: 1 }).expect("none", Phase.STOPPED);
  never().remembered({ phase: Phase.RUNNING, phaseGeneration: 1 }).expect("none", Phase.STOPPED);
  never().remembered({ phase: Phase.STOPPED, phaseGeneration: 0 }).expect("start", Phase.STARTING);
  const onFailure = () => aWorkload().wanted({ restartPolicy: "onFailure" });
  onFailure().remembered({ phase: Phase.STOPPED, phaseGeneration: 1 }).expect("none", Phase.STOPPED);
  onFailure().remembered({ phase: Phase.RUNNING, phaseGeneration: 1 }).expect("start", Phase.STARTING);
  aWorkload().remembered({ phase: Phase.RUNNING, phaseGeneration: 1 }).expect("start", Phase.STARTING);
});

test("after a failure it waits, says why, and tries again in time", () => {
  const failed = aWorkload().remembered({ failure: { message: "Port 80/tcp is taken", retryAt: later } });
  failed.expect("none", Phase.FAILED, /Port 80/);
  assert.deepEqual(failed.plan().wakeAt, later);
  aWorkload()
    .remembered({ failure: { message: "x", retryAt: now } })
    .expect("start", Phase.STARTING);
});

test("a failed update leaves the old instance running", () => {
  aWorkload()
    .wanted({ generation: 2 })
    .seen("running", 1)
    .remembered({ failure: { message: "no such image", retryAt: later } })
    .expect("none", Phase.FAILED, /no such image; the one before runs on/);
});

test("stop and start", () => {
  const stopped = () => aWorkload().wanted({ state: "stopped" });
  stopped().seen("running").expect("stop", Phase.STOPPING);
  stopped()
    .seen("stopped", 1, 143)
    .expect("none", Phase.STOPPED, /by request/);
  stopped().expect("none", Phase.STOPPED);
  // Start counts as a restart: also one that has completed runs again.
  const started = () => aWorkload().wanted({ restart: true, restartPolicy: "never" });
  started().seen("stopped", 1, 0).expect("start", Phase.STARTING);
});

test("pause and resume", () => {
  const paused = () => aWorkload().wanted({ state: "paused" });
  paused().seen("running").expect("pause", Phase.RUNNING);
  paused()
    .seen("paused")
    .expect("none", Phase.RUNNING, /Paused by request/);
  // A new spec waits until it is resumed; what has ended has nothing to be resumed.
  paused().wanted({ generation: 2 }).seen("paused", 1).expect("none", Phase.RUNNING);
  paused()
    .seen("stopped", 1, 137)
    .expect("none", Phase.STOPPED, /ended while it was paused/);
  paused().expect("none", Phase.STOPPED);
  paused()
    .seen("running")
    .remembered({ failure: { message: "it does not answer", retryAt: later } })
    .expect("none", Phase.RUNNING, /does not answer/);
  paused().goingDown().seen("paused").expect("stop", Phase.STOPPING);
  aWorkload().seen("paused").expect("resume", Phase.RUNNING);
  aWorkload().wanted({ restart: true }).seen("paused").expect("stop", Phase.STOPPING);
  aWorkload().wanted({ state: "stopped" }).seen("paused").expect("stop", Phase.STOPPING);
  aWorkload().wanted({ generation: 2 }).seen("paused").expect("remove", Phase.STOPPING);
});

test("one of which nothing is heard goes on if it ran, and is ended if it was starting", () => {
  aWorkload()
    .remembered({ phase: Phase.RUNNING, phaseGeneration: 1 })
    .seen("silent")
    .expect("none", Phase.RUNNING, /does not answer/);
  aWorkload().remembered({ phase: Phase.STARTING, phaseGeneration: 1 }).seen("silent").expect("stop", Phase.STARTING);
  aWorkload().wanted({ state: "stopped" }).seen("silent").expect("stop", Phase.STOPPING);
  aWorkload().wanted({ state: "deleted" }).seen("silent").expect("remove", Phase.DELETING);
});

test("restart stops and starts in place; with another image under the same name it is replaced", () => {
  const restart = () => aWorkload().wanted({ restart: true });
  restart().seen("running").expect("stop", Phase.STOPPING);
  restart().seen("stopped", 1, 143).expect("start", Phase.STARTING);
  restart().seen("running", 1, 0, "sha256:old").expect("remove", Phase.STOPPING);
  restart().seen("running").image({ state: "absent" }).expect("stop", Phase.STOPPING);
});

test("delete removes everything, then forgets", () => {
  const deleted = () => aWorkload().wanted({ state: "deleted" });
  deleted().seen("running").expect("remove", Phase.DELETING);
  deleted().seen("none").expect("remove", Phase.DELETING);
  deleted().expect("forget", Phase.DELETING);
});

test("when the capsule goes down everything stops and nothing starts", () => {
  aWorkload().goingDown().seen("running").expect("stop", Phase.STOPPING);
  aWorkload()
    .goingDown()
    .seen("stopped", 1, 143)
    .expect("none", Phase.PENDING, /starts with it again/);
  aWorkload().goingDown().expect("none", Phase.PENDING);
  aWorkload()
    .goingDown()
    .wanted({ state: "stopped" })
    .expect("none", Phase.STOPPED, /by request/);
  aWorkload().goingDown().wanted({ restartPolicy: "onFailure" }).seen("stopped").expect("none", Phase.STOPPED);
});
