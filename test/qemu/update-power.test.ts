/**
 * The power goes at random moments of updates. One machine is updated twice, confirmed and rolled back, while every write of its disk
 * is logged; then the disk is made as it was at moments in between, without some of what the machine had not flushed, and booted. Each
 * time what is started is a whole version, the one that the acknowledged calls demand, and the update can be made or given up from there.
 * ROUNDS=n cuts, SEED=n.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { builtSlot } from "../../image/image.ts";
import { copyDisk } from "../../image/qemu/machine.ts";
import type { Slot } from "../../image/slot.ts";
import type { QemuHost } from "../support/qemu/qemu-host.ts";
import { type Loss, losses, Replay, WriteLog } from "../support/qemu/write-log.ts";
import { Random } from "../support/random.ts";
import { type NextStart, nextStart, variantOf, versionIn } from "../support/slots.ts";
import type { TestCapsule } from "../support/test-capsule.ts";
import {
  bundleOf,
  minuteMs,
  runningSlot,
  type UpdateStatus,
  untilUpdate,
  untilWitness,
  updatedMachine,
  updateStatus,
} from "../support/updates.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? 2);
const random = new Random(seed);

/** Of so many moments one is booted; of the others is seen what would be. A boot takes a minute, a look some seconds. */
const looksPerBoot = 3;

/** From one acknowledged call, or other sight of the machine, to the next. */
interface Phase {
  readonly name: string;
  /** Its entries in the log of writes. */
  readonly from: number;
  readonly to: number;
  /** What may run after a power cut in it. */
  readonly runs: readonly Version[];
}
type Version = keyof typeof slotOf;
const slotOf = { first: "a", "2.0.0": "b", "3.0.0": "a" } as const;

let capsule: TestCapsule;
let host: QemuHost;
let log: WriteLog;
let replay: Replay;
let versions: Readonly<Record<Version, Slot>>;
let bundles: Readonly<Record<"2.0.0" | "3.0.0", string>>;
const phases: Phase[] = [];

const update = (...args: string[]) => capsule.try(["capsule", "update", ...args], "", 10 * minuteMs);
const until = (what: string, holds: (status: UpdateStatus) => boolean): Promise<UpdateStatus> =>
  untilUpdate({ capsule, host }, what, holds);
const untilHealthyTrial = (): Promise<UpdateStatus> =>
  until("healthy", ({ trial }) => trial?.running === true && !trial.faults?.length);

async function done(...args: string[]): Promise<void> {
  const { code, stderr } = await update(...args);
  assert.equal(code, 0, `update ${args[0]}: ${stderr}`);
}

/** One step of the life that is cut. */
async function phase(name: string, runs: readonly Version[], step: () => Promise<unknown>): Promise<void> {
  const from = await log.count();
  await step();
  const to = await log.count();
  console.log(`${name}: writes ${from} to ${to}`);
  phases.push({ name, from, to, runs });
}

async function rebootIntoTrial(): Promise<void> {
  await capsule.ctl(["capsule", "reboot", "--yes"]);
  await untilHealthyTrial();
}

before(async () => {
  console.log(`SEED=${seed}`);
  ({ capsule, host } = await updatedMachine("upower", async (disk) => {
    const [first, writes] = [`${disk}.first`, `${disk}.writes`];
    await copyDisk(disk, first);
    log = await WriteLog.create(writes);
    replay = new Replay(log, first);
    return writes;
  }));
  const first = await builtSlot();
  const second = await variantOf(first, 64, join(capsule.dir, "second"));
  const third = await variantOf(first, 32, join(capsule.dir, "third"));
  versions = { first, "2.0.0": second, "3.0.0": third };
  bundles = {
    "2.0.0": await bundleOf(capsule, second, "2.0.0"),
    "3.0.0": await bundleOf(capsule, third, "3.0.0"),
  };
  // The try is arranged at the end of a push, before it is acknowledged.
  await phase("push", ["first", "2.0.0"], () => done("push", bundles["2.0.0"], "--no-reboot"));
  await phase("reboot and trial", ["first", "2.0.0"], rebootIntoTrial);
  await phase("confirm", ["first", "2.0.0"], () => done("confirm"));
  await phase("push over the version before", ["2.0.0", "3.0.0"], () => done("push", bundles["3.0.0"], "--no-reboot"));
  await phase("reboot and trial of that", ["2.0.0", "3.0.0"], rebootIntoTrial);
  await phase("rollback", ["2.0.0"], async () => {
    await done("rollback", "--yes");
    await until("rolled back", ({ last, trial }) => trial === undefined && last?.result === "rolledBack");
    await untilWitness(capsule);
  });
  await host.cutPower();
});
after(async () => {
  await capsule?.stop();
  await log?.close();
});

interface Cut {
  readonly phase: Phase;
  readonly index: number;
  readonly loss: Loss;
  readonly isBooted: boolean;
  /** In the middle of a push: the slot that is not started must be seen to be neither one version nor another. */
  readonly isHalf?: true;
}

function halfOf(picked: Phase | undefined): Cut {
  if (picked === undefined) throw new Error("no such phase");
  const index = Math.round((picked.from + picked.to) / 2);
  return { phase: picked, index, loss: "none", isBooted: false, isHalf: true };
}

function randomCut(isBooted: boolean): Cut {
  const picked = random.pick(phases);
  const index = picked.from + 1 + random.below(picked.to - picked.from);
  return { phase: picked, index, loss: random.pick(losses), isBooted };
}

/** The machine after the cut: what was to be started runs, the capsule knows it, and so does the workload. */
async function boot({ slot, isTrial }: NextStart, what: string): Promise<UpdateStatus> {
  await host.startAgain();
  await capsule.untilServing(5 * minuteMs);
  const commandLine = await host.exec(["cat", "/proc/cmdline"]);
  assert.match(commandLine, new RegExp(`capsule\\.slot=${slot} capsule\\.trial=${isTrial ? 1 : 0} `), what);
  const found = await updateStatus(capsule);
  assert.deepEqual([runningSlot(found), found.trial?.running === true], [slot, isTrial], what);
  await untilWitness(capsule);
  return found;
}

/** Whatever is left of the update: it can be made, and stays. */
async function makeUpdate(wanted: keyof typeof bundles, found: UpdateStatus): Promise<void> {
  if (found.trial?.running !== true) await done("push", bundles[wanted]);
  await untilHealthyTrial();
  await done("confirm");
  const { slots, trial, last } = await updateStatus(capsule);
  assert.deepEqual([trial, last?.result, last?.version], [undefined, "confirmed", wanted]);
  assert.equal(runningSlot({ slots }), slotOf[wanted]);
  await untilWitness(capsule);
}

test(`${rounds} power cuts during updates`, { timeout: rounds * 20 * minuteMs }, async () => {
  const count = rounds * (looksPerBoot + 1);
  const cuts = Array.from({ length: count }, (_, i) => randomCut(i % (looksPerBoot + 1) === 0));
  cuts.push(halfOf(phases[3]));
  const disk = join(capsule.dir, "machine/disk.raw");
  const scratch = join(capsule.dir, "scratch");
  let boots = 0;
  for (const { phase, index, loss, isBooted, isHalf } of cuts.sort((a, b) => a.index - b.index)) {
    await replay.cut(index, loss, random, disk);
    const next = await nextStart(disk, scratch);
    const version = await versionIn(disk, next.slot, versions, scratch);
    const other = await versionIn(disk, next.slot === "a" ? "b" : "a", versions, scratch);
    const what = `${phase.name}, before write ${index}, lost of what was not flushed: ${loss}; starts slot ${next.slot}${next.isTrial ? " on trial" : ""}, ${version ?? "no whole version"}; the other has ${other ?? "no whole one"}`;
    console.log(isBooted ? `${++boots} of ${rounds}: ${what}` : what);
    assert.ok(
      phase.runs.some((one) => one === version),
      what,
    );
    if (isHalf) assert.equal(other, undefined, what);
    if (!isBooted) continue;
    const found = await boot(next, what);
    const wanted = phase.runs.includes("3.0.0") || phases.indexOf(phase) > 2 ? "3.0.0" : "2.0.0";
    const isThere = slotOf[wanted] === next.slot && !next.isTrial;
    if (!isThere && random.below(4) === 0) {
      await makeUpdate(wanted, found);
      console.log(`  the update to ${wanted} was made`);
    }
    await host.cutPower();
  }
});
