/**
 * capsuled ends after every single effect of every operation with volumes (crash-point.ts), one run for each: nothing that
 * was acknowledged is lost, nothing that was not is left, and what was begun is finished or gone. In namespaces every second place is
 * cut, with the first or the second at random. On a machine it is the machine that ends there, and one operation is cut at one place.
 * ALL=1 goes through all of them, from place FROM=n on. With SEED=n.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { askAgainMs, emulated, type Result, TestCapsule } from "../support/test-capsule.ts";
import {
  disksOf,
  isUnfinished,
  readWitness,
  snapshotsOf,
  type VolumeJson,
  volumesOf,
  writeWitness,
} from "../support/volumes.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const random = new Random(seed);
const isAll = process.env["ALL"] === "1";
const isSample = emulated && !isAll;
const sampleSize = 1;
const from = Number(process.env["FROM"] ?? 0);
/** More places than any operation has: one that never ends is a fault. */
const maxPlaces = 80;
const settleMs = emulated ? 240_000 : 30_000;

let capsule: TestCapsule;
let file: string;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("vcrash", ["busybox"]);
  file = join(capsule.dir, "export.zst");
  await capsule.ctl(["volume", "create", "origin", "--size", "32MiB"]);
  await write("origin", "origin");
  await capsule.ctl(["volume", "snapshot", "origin", "s"]);
  await capsule.ctl(["volume", "export", "origin", file]);
});
after(async () => await capsule?.stop());

const write = (volume: string, word: string): Promise<void> => writeWitness(capsule, volume, word);
const read = (volume: string): Promise<string> => readWitness(capsule, volume);
const volumes = (): Promise<Map<string, VolumeJson>> => volumesOf(capsule);
const snapshots = (volume: string): Promise<string[]> => snapshotsOf(capsule, volume);

/** Every volume is ready, and there is a disk for each of them and each snapshot, and no other. */
async function settled(what: string): Promise<Map<string, VolumeJson>> {
  const deadline = Date.now() + settleMs;
  for (;;) {
    const found = await volumes();
    const open = [...found.values()].filter(({ status }) => status.phase !== "VOLUME_PHASE_READY");
    if (open.length === 0) {
      let wanted = found.size;
      for (const name of found.keys()) wanted += (await snapshots(name)).length;
      const left = await disksOf(capsule);
      if (left.length === wanted && !left.some(isUnfinished)) return found;
      assert.ok(Date.now() < deadline, `${what}: ${left.join()} for ${[...found.keys()].join()}`);
    }
    assert.ok(Date.now() < deadline, `${what}: ${JSON.stringify(open)}`);
    await sleep(askAgainMs);
  }
}

interface Operation {
  /** Before each run; what it needs. */
  readonly prepare?: () => Promise<void>;
  readonly args: () => string[];
  /** What must be, after all has settled. */
  readonly check: (acknowledged: boolean, found: ReadonlyMap<string, VolumeJson>) => Promise<void>;
}

const makeVictim = async (): Promise<void> => {
  if (!(await volumes()).has("v")) await capsule.ctl(["volume", "restore", "origin", "s", "--as", "v"]);
};
const user =
  'kind: Container\nname: user\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s, mounts: [{volumeName: w, mountPath: /data}]}\n';
const sh = (script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", "user", "--", "sh", "-c", script], "", 60_000);
const mib = (volume: VolumeJson | undefined): number => Number(volume?.status.sizeBytes) / 1024 ** 2;

const operations: Record<string, Operation> = {
  create: {
    args: () => ["volume", "create", "v", "--size", "32MiB"],
    check: async (acknowledged, found) => assert.ok(!acknowledged || found.has("v")),
  },
  resize: {
    prepare: makeVictim,
    args: () => ["volume", "resize", "v", "40MiB"],
    check: async (acknowledged, found) => {
      if (acknowledged) assert.equal(mib(found.get("v")), 40);
      assert.equal(await read("v"), "origin");
    },
  },
  snapshot: {
    args: () => ["volume", "snapshot", "origin", "t"],
    check: async (acknowledged) => {
      const names = await snapshots("origin");
      assert.ok(!acknowledged || names.includes("t"), names.join());
      assert.ok(names.includes("s"));
      if (names.includes("t")) await capsule.ctl(["volume", "delete-snapshot", "origin", "t"]);
    },
  },
  restore: {
    prepare: async () => {
      await makeVictim();
      if (!(await snapshots("v")).includes("before")) await capsule.ctl(["volume", "snapshot", "v", "before"]);
      await write("v", "changed");
    },
    args: () => ["volume", "restore", "v", "before"],
    check: async (acknowledged) => {
      const held = await read("v");
      assert.ok(held === "origin" || (!acknowledged && held === "changed"), held);
    },
  },
  "restore as a new volume": {
    args: () => ["volume", "restore", "origin", "s", "--as", "v"],
    check: async (acknowledged, found) => {
      assert.ok(!acknowledged || found.has("v"));
      if (found.has("v")) assert.equal(await read("v"), "origin");
    },
  },
  import: {
    args: () => ["volume", "import", "v", file],
    check: async (acknowledged, found) => {
      // The client goes on when capsuled is there again.
      assert.ok(acknowledged && found.has("v"));
      assert.equal(await read("v"), "origin");
    },
  },
  "delete of a snapshot": {
    prepare: async () => {
      if (!(await snapshots("origin")).includes("t")) await capsule.ctl(["volume", "snapshot", "origin", "t"]);
    },
    args: () => ["volume", "delete-snapshot", "origin", "t"],
    check: async (acknowledged) => assert.ok(!(acknowledged && (await snapshots("origin")).includes("t"))),
  },
  delete: {
    prepare: makeVictim,
    args: () => ["volume", "delete", "v"],
    check: async (acknowledged, found) => assert.ok(!(acknowledged && found.has("v"))),
  },
  "restore that stops a workload": {
    prepare: async () => {
      if (!(await volumes()).has("w")) {
        await capsule.ctl(["volume", "restore", "origin", "s", "--as", "w"]);
        await capsule.ctl(["volume", "snapshot", "w", "base"]);
      }
      const { code, stderr } = await capsule.apply(user, "--wait=60s");
      assert.equal(code, 0, stderr);
      await sh("echo changed >/data/witness; sync");
    },
    args: () => ["volume", "restore", "w", "base", "--stop"],
    check: async (acknowledged) => {
      await capsule.until("user", ({ status }) => status.phase === "PHASE_RUNNING", "running again", settleMs);
      const held = (await sh("cat /data/witness")).trim();
      assert.ok(held === "origin" || (!acknowledged && held === "changed"), held);
    },
  },
};

/** Another one after each start of what is ended: capsuled, or the machine. Undefined in between. */
async function incarnation(): Promise<string | undefined> {
  const { host } = capsule;
  if (host instanceof QemuHost) return await host.bootId().catch(() => undefined);
  return String(await capsule.capsuledPid());
}

async function start(): Promise<void> {
  await capsule.startCapsuled();
  await capsule.untilServing();
}

/** Runs it, with a crash after `places` effects. False when it was done before so many. */
async function crashed({ args }: Operation, places: number): Promise<{ crashed: boolean; result: Result }> {
  const { host } = capsule;
  const before = await incarnation();
  await host.exec(["sh", "-c", `echo ${places} ${emulated ? "machine" : "capsuled"} >/run/capsule/crash-after`]);
  const running = capsule.try(args(), "", 180_000);
  let isDone = false;
  void running.then(() => {
    isDone = true;
  });
  // An import waits for capsuled, so it is started while the operation runs.
  let isGone = false;
  while (!isDone && !isGone) {
    isGone = (await incarnation()) !== before;
    if (!isGone) await sleep(emulated ? askAgainMs : 20);
  }
  const comeBack = async (): Promise<void> => {
    if (!(host instanceof QemuHost)) return await start();
    await host.untilRebooted(before ?? "");
    await capsule.untilServing();
  };
  if (isGone) await comeBack();
  const result = await running;
  if (!isGone && (await incarnation()) !== before) {
    isGone = true;
    await comeBack();
  }
  if (isGone && emulated) return { crashed: true, result };
  // Nothing of it is left for what comes next.
  await capsule.killCapsuled();
  await host.exec(["rm", "-f", "/run/capsule/crash-after"]);
  await start();
  return { crashed: isGone, result };
}

const names = Object.keys(operations);
const sample = new Set<string>();
while (isSample && sample.size < sampleSize) sample.add(names[random.below(names.length)] ?? "");

describe("a crash after each effect of", () => {
  for (const [name, operation] of Object.entries(operations)) {
    test(name, { timeout: 3_600_000, skip: isSample && !sample.has(name) }, async () => {
      const first = isAll ? from : random.below(isSample ? 12 : 2);
      for (let places = first; places < maxPlaces; places += isAll ? 1 : 2) {
        const what = `${name}, after ${places}`;
        await operation.prepare?.();
        const run = await crashed(operation, places);
        try {
          await operation.check(run.result.code === 0, await settled(what));
        } catch (error) {
          throw new Error(`${what}, which ended with ${run.result.code}: ${run.result.stderr}`, { cause: error });
        }
        if ((await volumes()).has("v")) await capsule.ctl(["volume", "delete", "v", "--snapshots"]);
        if (run.crashed && isSample) return;
        if (run.crashed) continue;
        assert.equal(await read("origin"), "origin");
        assert.equal(run.result.code, 0, run.result.stderr);
        console.log(`${name}: ${places} places`);
        return;
      }
      assert.fail(`${name} had no end after ${maxPlaces} effects`);
    });
  }
});
