/** What tests of updates ask of a machine, and the bundles that they push. */
import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Slot } from "../../image/slot.ts";
import { signSlot, writeUpdate } from "../../image/update.ts";
import { signingKey } from "../../image/update-key.ts";
import { type LogWrites, QemuHost } from "./qemu/qemu-host.ts";
import { TestCapsule } from "./test-capsule.ts";

export const minuteMs = 60_000;
/** A boot that fails, its ten seconds of panic, and one that does not, beside another machine. */
const outcomeMs = 12 * minuteMs;

export interface UpdateStatus {
  readonly slots: readonly { readonly name: string; readonly running?: boolean; readonly version?: string }[];
  readonly trial?: { readonly version: string; readonly running?: boolean; readonly faults?: readonly string[] };
  readonly push?: { readonly receivedBytes?: string };
  readonly last?: { readonly result: string; readonly version: string; readonly reason?: string };
}

/** Name of the slot that runs. */
export function runningSlot({ slots }: UpdateStatus): string {
  return slots.find((one) => one.running)?.name ?? "";
}

const witness = `kind: Volume
name: witness-data
size: 64MiB
---
kind: Container
name: witness
container:
  image: "busybox:1"
  command: [sh, -c, "sleep 1d"]
  stopTimeout: 0s
  mounts: [{volumeName: witness-data, mountPath: /data}]
`;
const written = "what was written before the first update";

/** A machine with a workload, `witness`, that has to run again after each update, with what it has in its volume. */
export async function updatedMachine(
  name: string,
  logWrites?: LogWrites,
): Promise<{ capsule: TestCapsule; host: QemuHost }> {
  const capsule = await TestCapsule.startMachine(name, ["busybox"], logWrites);
  const { host } = capsule;
  try {
    if (!(host instanceof QemuHost)) throw new Error("updates of a machine need a machine");
    await capsule.ctl(["apply", "-f", "-", "--wait=60s"], witness);
    const write = `echo ${written} >/data/file && sync /data/file`;
    await capsule.ctl(["workload", "exec", "witness", "--", "sh", "-c", write]);
    return { capsule, host };
  } catch (error) {
    await capsule.stop();
    throw error;
  }
}

export async function untilWitness(capsule: TestCapsule): Promise<void> {
  await capsule.until("witness", ({ status: { phase } }) => phase === "PHASE_RUNNING", "running again", 3 * minuteMs);
  const read = await capsule.ctl(["workload", "exec", "witness", "--", "cat", "/data/file"]);
  assert.equal(read.trim(), written, "its volume");
}

export async function updateStatus(capsule: TestCapsule): Promise<UpdateStatus> {
  return JSON.parse(await capsule.ctl(["capsule", "update", "status", "-o", "json"])) as UpdateStatus;
}

/** Waits until it is so, through restarts of the machine. */
export async function untilUpdate(
  { capsule, host }: { readonly capsule: TestCapsule; readonly host: QemuHost },
  what: string,
  holds: (status: UpdateStatus) => boolean,
): Promise<UpdateStatus> {
  const deadline = Date.now() + outcomeMs;
  for (let found: UpdateStatus | undefined; ; ) {
    found = await updateStatus(capsule).catch(() => undefined);
    if (found !== undefined && holds(found)) return found;
    if (Date.now() > deadline)
      throw new Error(`not ${what}: ${JSON.stringify(found)}\n${host.machine.console().slice(-2_000)}`);
    await sleep(2_000);
  }
}

/** Writes a bundle of the slot that was built, or of a variant of it, and returns its path. */
export async function bundleOf(
  capsule: TestCapsule,
  slot: Slot,
  version: string,
  key: KeyObject = signingKey(),
): Promise<string> {
  const path = join(capsule.dir, `${version}.tar`);
  await writeUpdate(await signSlot(slot, { version, epoch: 1, key }), path);
  return path;
}
