/** What tests of updates ask of a machine, and the bundles that they push. */
import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Slot } from "../../image/slot.ts";
import { writeUpdate } from "../../image/update.ts";
import { signingKey } from "../../image/update-key.ts";
import { QemuHost } from "./qemu/qemu-host.ts";
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

/** A machine with a workload, `witness`, that has to run again after each update. */
export async function updatedMachine(name: string): Promise<{ capsule: TestCapsule; host: QemuHost }> {
  const capsule = await TestCapsule.startMachine(name, ["busybox"]);
  const { host } = capsule;
  const manifest =
    'kind: Container\nname: witness\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s}\n';
  const { code, stderr } = await capsule.apply(manifest, "--wait=60s");
  if (code === 0 && host instanceof QemuHost) return { capsule, host };
  await capsule.stop();
  throw new Error(stderr);
}

export async function untilWitness(capsule: TestCapsule): Promise<void> {
  await capsule.until("witness", ({ status: { phase } }) => phase === "PHASE_RUNNING", "running again", 3 * minuteMs);
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
  await writeUpdate(slot, { version, epoch: 1, key }, path);
  return path;
}
