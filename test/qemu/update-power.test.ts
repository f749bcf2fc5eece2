/**
 * The power goes at a random moment of an update: while it is pushed, while the machine goes down or starts for its trial, while it is
 * confirmed or taken back. Afterwards a whole version boots, the workload runs, and what was acknowledged holds. ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { builtSlot } from "../../image/image.ts";
import type { Slot } from "../../image/slot.ts";
import type { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
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
const rounds = Number(process.env["ROUNDS"] ?? 3);
const random = new Random(seed);

/** What is under way when the power goes, and how long after its begin that is at most, in milliseconds. */
const moments = { push: 30_000, reboot: 20_000, boot: 90_000, confirm: 500, rollback: 10_000 } as const;
type Moment = keyof typeof moments;

let capsule: TestCapsule;
let host: QemuHost;
let slot: Slot;
before(async () => {
  console.log(`SEED=${seed}`);
  ({ capsule, host } = await updatedMachine("upower"));
  slot = await builtSlot();
});
after(async () => await capsule?.stop());

const update = (...args: string[]) => capsule.try(["capsule", "update", ...args], "", 10 * minuteMs);
const until = (what: string, holds: (status: UpdateStatus) => boolean): Promise<UpdateStatus> =>
  untilUpdate({ capsule, host }, what, holds);

async function pushed(...args: string[]): Promise<void> {
  const { code, stderr } = await update("push", ...args);
  assert.equal(code, 0, stderr);
}

/** Begins what is to be cut. `acknowledged`, when it has ended: whether it was done, as far as its caller knows. */
async function begin(
  moment: Moment,
  bundle: string,
  version: string,
): Promise<{ readonly acknowledged: Promise<boolean> }> {
  const begun = (ran: Promise<{ code: number }>) => ({ acknowledged: ran.then(({ code }) => code === 0) });
  // It goes on by itself when the machine is back.
  if (moment === "push") return begun(update("push", bundle, "--no-reboot"));
  await pushed(bundle, ...(moment === "reboot" ? ["--no-reboot"] : []));
  if (moment === "reboot") return begun(capsule.try(["capsule", "reboot"], "", minuteMs));
  if (moment === "boot") return { acknowledged: Promise.resolve(true) };
  await until("healthy", ({ trial }) => trial?.running === true && trial.version === version && !trial.faults?.length);
  return begun(update(moment));
}

/** Whatever was cut: a slot was started as a whole, as a trial or not, and the capsule knows which. */
async function check(what: string): Promise<UpdateStatus> {
  await capsule.untilServing(5 * minuteMs);
  const found = await updateStatus(capsule);
  const commandLine = await host.exec(["cat", "/proc/cmdline"]);
  assert.match(commandLine, new RegExp(`capsule\\.slot=${runningSlot(found)} `), what);
  assert.equal(commandLine.includes("capsule.trial=1"), found.trial?.running === true, what);
  await untilWitness(capsule);
  return found;
}

test(`${rounds} power cuts during updates`, { timeout: rounds * 30 * minuteMs }, async () => {
  for (let round = 0; round < rounds; round++) {
    const from = runningSlot(await updateStatus(capsule));
    const version = `${round + 2}.0.0`;
    const bundle = await bundleOf(capsule, slot, version);
    const names = Object.keys(moments) as Moment[];
    const moment = names[random.below(names.length)] ?? "push";
    const { acknowledged } = await begin(moment, bundle, version);
    const afterMs = random.below(moments[moment]);
    await sleep(afterMs);
    await host.cutPower();
    const what = `round ${round}, ${moment}, cut after ${afterMs} ms`;
    await host.startAgain();
    const wasAcknowledged = await acknowledged;
    const found = await check(what);
    const isNew = runningSlot(found) !== from;
    console.log(
      `${what}: ${isNew ? "the new version" : "the one before"} runs, ${JSON.stringify(found.trial ?? found.last ?? {})}`,
    );
    if (moment === "confirm" && wasAcknowledged) assert.deepEqual([isNew, found.trial], [true, undefined], what);
    if (moment === "confirm" && !isNew) assert.equal(found.last?.result, "rolledBack", what);
    // The version before is never lost, and whatever is left of the update: it can be made, and stays.
    if (!isNew || found.trial !== undefined) {
      if (found.trial?.running !== true) await pushed(bundle);
      await until("healthy", ({ trial }) => trial?.running === true && !trial.faults?.length);
      const { code, stderr } = await update("confirm");
      assert.equal(code, 0, `${what}: ${stderr}`);
    }
    const { slots, trial, last } = await updateStatus(capsule);
    assert.notEqual(runningSlot({ slots }), from, what);
    assert.deepEqual([trial, last?.result, last?.version], [undefined, "confirmed", version], what);
    await untilWitness(capsule);
  }
});
