/**
 * Updates of a real machine: pushed, broken and gone on with, tried, confirmed; and versions that do not work, each of which
 * undoes itself. ALL=1 also tries one that hangs, and one without a network (ten minutes more).
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { builtSlot } from "../../image/image.ts";
import type { Slot } from "../../image/slot.ts";
import type { QemuHost } from "../support/qemu/qemu-host.ts";
import { variantOf } from "../support/slots.ts";
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

let capsule: TestCapsule;
let host: QemuHost;
let slot: Slot;
before(async () => {
  ({ capsule, host } = await updatedMachine("update"));
  slot = await builtSlot();
});
after(async () => {
  if (process.env["KEEP_CONSOLE"] !== undefined) writeFileSync(process.env["KEEP_CONSOLE"], host.machine.console());
  await capsule?.stop();
});

const status = (): Promise<UpdateStatus> => updateStatus(capsule);
const until = (what: string, holds: (status: UpdateStatus) => boolean): Promise<UpdateStatus> =>
  untilUpdate({ capsule, host }, what, holds);
const bundle = (version: string, changes: Partial<Slot> = {}, key?: KeyObject): Promise<string> =>
  bundleOf(capsule, { ...slot, ...changes }, version, key);

/** An initramfs that puts files over those of the root (image/initramfs/init). */
function initrdWith(files: Readonly<Record<string, string>>): string {
  const tree = join(capsule.dir, "extra");
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(tree, "extra", path, ".."), { recursive: true });
    writeFileSync(join(tree, "extra", path), content, { mode: 0o755 });
  }
  const archive = execFileSync("sh", [
    ...["-ec", 'cd "$1"; find . -mindepth 1 | cpio --quiet --create --format=newc --owner=0:0; rm -r "$1"', "sh", tree],
  ]);
  const own = readFileSync(slot.initrd);
  const target = join(capsule.dir, "initrd");
  // Archives begin at multiples of four bytes.
  writeFileSync(target, Buffer.concat([own, Buffer.alloc((4 - (own.length % 4)) % 4), archive]));
  return target;
}

async function untilRolledBack(version: string, slotBefore: string): Promise<string> {
  const found = await until(`rolled back from ${version}`, ({ last }) => last?.version === version);
  assert.equal(found.last?.result, "rolledBack");
  assert.equal(runningSlot(found), slotBefore);
  assert.equal(found.slots.find(({ name }) => name !== slotBefore)?.version ?? "", "", "its slot is empty");
  assert.match(
    await capsule.ctl(["capsule", "info", "-o", "json"]),
    new RegExp(`The update to ${version} was rolled back`),
  );
  assert.match(await capsule.ctl(["capsule", "events"]), new RegExp(`UpdateRolledBack.*${version}`));
  await untilWitness(capsule);
  return found.last?.reason ?? "";
}

test("a bundle that a stranger signed is refused, and nothing was begun", { timeout: 5 * minuteMs }, async () => {
  const tiny = join(capsule.dir, "tiny");
  writeFileSync(tiny, "content");
  const key = generateKeyPairSync("ed25519").privateKey;
  const path = await bundle("6.6.6", { vmlinuz: tiny, initrd: tiny, squashfs: tiny }, key);
  const { code, stderr } = await capsule.try(["capsule", "update", "push", path]);
  assert.equal(code, 4, stderr);
  assert.match(stderr, /signed by none of the 1 keys/);
  const { push, trial } = await status();
  assert.deepEqual([push, trial], [undefined, undefined]);
  const { stderr: none } = await capsule.try(["capsule", "update", "confirm"]);
  assert.match(none, /No update is waiting to be confirmed/);
});

test("1 to 2: capsuled is killed in the middle of the push, which goes on; tried, confirmed", {
  timeout: 25 * minuteMs,
}, async () => {
  const path = await bundle("2.0.0");
  const pushing = capsule.try(["capsule", "update", "push", path], "", 10 * minuteMs);
  await until("half way", ({ push }) => Number(push?.receivedBytes ?? 0) > 40 * 1024 * 1024);
  await capsule.killCapsuled();
  const { code, stderr } = await pushing;
  assert.equal(code, 0, stderr);
  assert.match(stderr, /going on at/);
  const trial = await until("on trial", (found) => found.trial?.running === true && runningSlot(found) === "b");
  assert.equal(trial.trial?.version, "2.0.0");
  assert.match(await host.exec(["cat", "/proc/cmdline"]), /capsule\.slot=b capsule\.trial=1/);
  assert.match(await host.exec(["cat", "/perm/log/init.log"]), /\/dev\/watchdog: armed/);
  await untilWitness(capsule);
  const again = await capsule.try(["capsule", "update", "push", path]);
  assert.match(again.stderr, /while a version is on trial/);
  await until("healthy", ({ trial: found }) => (found?.faults ?? []).length === 0);
  await capsule.ctl(["capsule", "update", "confirm"]);
  const done = await status();
  assert.deepEqual([done.trial, done.last?.result, done.last?.version], [undefined, "confirmed", "2.0.0"]);
  assert.match(await host.exec(["tail", "-n", "20", "/perm/log/init.log"]), /the version on trial was confirmed/);
});

test("another build keeps itself by --auto-confirm; later an operator goes back to the version before", {
  timeout: 25 * minuteMs,
}, async () => {
  const from = runningSlot(await status());
  const path = await bundle("2.1.0", await variantOf(slot, 64, join(capsule.dir, "other-build")));
  await capsule.ctl(["capsule", "update", "push", path, "--auto-confirm=10s"], "", 10 * minuteMs);
  const kept = await until("kept by itself", ({ last }) => last?.version === "2.1.0");
  assert.deepEqual([kept.last?.result, kept.trial], ["confirmed", undefined]);
  assert.notEqual(runningSlot(kept), from);
  await untilWitness(capsule);
  assert.match(await capsule.ctl(["capsule", "update", "rollback", "--yes"]), /restarts into /);
  await until("back, on trial as any other", ({ trial, slots }) => {
    return trial?.running === true && !trial.faults?.length && runningSlot({ slots }) === from;
  });
  await capsule.ctl(["capsule", "update", "confirm"]);
  await untilWitness(capsule);
});

test("a healthy version that nobody confirms goes at its deadline, with the operator's changes kept", {
  timeout: 25 * minuteMs,
}, async () => {
  const from = runningSlot(await status());
  await capsule.ctl(["capsule", "update", "push", await bundle("2.2.0"), "--confirm-within=2m"], "", 10 * minuteMs);
  await until("on trial", ({ trial }) => trial?.running === true);
  await capsule.ctl(["volume", "create", "made-on-trial", "--size", "16MiB"]);
  assert.match(await untilRolledBack("2.2.0", from), /nobody confirmed it within 2 min/);
  assert.match(await capsule.ctl(["volume", "list"]), /made-on-trial/);
});

test("2 to one whose root cannot be mounted: the kernel panics, and 2 is back", {
  timeout: 20 * minuteMs,
}, async () => {
  const from = runningSlot(await status());
  const squashfs = join(capsule.dir, "garbage");
  writeFileSync(squashfs, randomBytes(1024 * 1024));
  await capsule.ctl(["capsule", "update", "push", await bundle("3.0.0", { squashfs })], "", 5 * minuteMs);
  assert.match(await untilRolledBack("3.0.0", from), /its kernel panicked, it hung, or the power was cut/);
  assert.match(host.machine.console(), /cannot be mounted: it is empty or damaged/);
});

test("2 to one whose capsuled ends at once: it is back on 2, and says so", { timeout: 25 * minuteMs }, async () => {
  const from = runningSlot(await status());
  const initrd = initrdWith({ "usr/lib/capsule/capsuled.mjs": "process.exit(3);\n" });
  await capsule.ctl(["capsule", "update", "push", await bundle("4.0.0", { initrd })], "", 10 * minuteMs);
  assert.match(await untilRolledBack("4.0.0", from), /capsuled crashed 6 times, at last with exit code 3/);
});

test("2 to one that hangs: the watchdog bites, and 2 is back", {
  timeout: 30 * minuteMs,
  skip: process.env["ALL"] === undefined && "only with ALL=1",
}, async () => {
  const from = runningSlot(await status());
  await capsule.ctl(["capsule", "update", "push", await bundle("7.0.0")], "", 10 * minuteMs);
  await until("on trial", (found) => found.trial?.running === true && runningSlot(found) !== from);
  // PID 1, and with it everything that it started: nobody feeds the watchdog, and nobody can restart the machine.
  await host.exec(["sh", "-c", "echo 1 >/sys/fs/cgroup/system/cgroup.freeze"]).catch(() => undefined);
  assert.match(await untilRolledBack("7.0.0", from), /its kernel panicked, it hung, or the power was cut/);
});

test("2 to one without a network: it is back on 2, and says so", {
  timeout: 30 * minuteMs,
  skip: process.env["ALL"] === undefined && "only with ALL=1",
}, async () => {
  const from = runningSlot(await status());
  const initrd = initrdWith({ "usr/lib/capsule/first-link": "#!/bin/sh\nexec sleep infinity\n" });
  await capsule.ctl(["capsule", "update", "push", await bundle("5.0.0", { initrd })], "", 10 * minuteMs);
  assert.match(await untilRolledBack("5.0.0", from), /the network was away/);
});
