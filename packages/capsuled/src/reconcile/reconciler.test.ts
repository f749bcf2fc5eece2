/** What planner.test.ts cannot show: steps and looks that overlap in time. The store is real, the runtime is one workload in memory. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { RestartPolicy, WorkloadSpecSchema } from "@capsule/api";
import { pino } from "pino";
import type { Observed, RuntimeDriver, TaskState } from "../runtime/driver.ts";
import { Store } from "../store/store.ts";
import { Reconciler, type ReconcilerOptions } from "./reconciler.ts";

let dir: string;
let store: Store;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-reconciler-"));
  store = new Store(join(dir, "state.db"));
});

afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true });
});

const finishedAt = new Date("2026-11-27T00:00:00Z");

/** A runtime whose only workload is prepared until `started`, and has ended by then. */
class OneWorkload implements Pick<RuntimeDriver, "list" | "observe" | "start" | "onChange"> {
  starts = 0;
  lists = 0;
  task: TaskState | undefined;
  started: () => void = () => undefined;

  #seen(uid: string): Observed | undefined {
    return this.task && { uid, name: "never", generation: 1, imageDigest: "sha256:1", task: this.task };
  }

  async list(): Promise<Observed[]> {
    this.lists++;
    const seen = this.#seen(store.workloads.list()[0]?.uid ?? "");
    return seen === undefined ? [] : [seen];
  }

  async observe(uid: string): Promise<Observed | undefined> {
    return this.#seen(uid);
  }

  async start(): Promise<void> {
    this.starts++;
    this.task = { state: "none" };
    if (this.starts === 1) {
      await new Promise<void>((resolve) => {
        this.started = resolve;
      });
    }
    this.task = { state: "stopped", exitCode: 3, finishedAt, outOfMemory: false };
  }

  onChange(): void {}
}

function reconcilerOf(driver: OneWorkload): Reconciler {
  const options = {
    store,
    driver,
    images: { normalize: (name: string) => name, find: async () => ({ digest: "sha256:1" }) },
    network: {
      sync: async () => undefined,
      addressesOf: () => undefined,
      tapOf: () => undefined,
      filesFor: async () => new Map(),
    },
    volumes: {
      adopt: () => undefined,
      settle: () => undefined,
      release: async () => undefined,
      mountFor: async () => [],
    },
    pulls: { stop: () => undefined, forget: () => undefined },
    isOthers: () => false,
    workloadsDir: dir,
    log: pino({ level: "silent" }),
    resyncMs: 10,
  };
  return new Reconciler(options as unknown as ReconcilerOptions);
}

async function until(what: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!what()) {
    assert.ok(Date.now() < deadline, "it did not come");
    await sleep(5);
  }
}

describe("a resync while a workload is started", () => {
  it("does not start once more what may run once", async () => {
    const value = { image: "busybox:1", restartPolicy: RestartPolicy.NEVER };
    const spec = create(WorkloadSpecSchema, { name: "never", kind: { case: "container", value } });
    store.transaction(() => store.workloads.insert(spec, new Date()));
    const driver = new OneWorkload();
    const reconciler = reconcilerOf(driver);
    await reconciler.start();
    await until(() => driver.starts === 1);
    const before = driver.lists;
    await until(() => driver.lists > before + 2);
    driver.started();
    await until(() => store.workloads.get("never")?.status.lastExit?.code === 3);
    const after = driver.lists;
    await until(() => driver.lists > after + 2);
    await reconciler.stop();
    assert.equal(driver.starts, 1);
    assert.equal(store.workloads.get("never")?.status.restartCount, 0);
  });
});
