/** Brings the disk to what a capsule needs: the steps of plan.ts, carried out one by one; then `/perm` is mounted. */
import { appendFile, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { runTool, ToolError } from "../../tool.ts";
import { groupName, thinPoolName, wholeTag } from "../layout.ts";
import { Lvm } from "../tools/lvm.ts";
import { type BootDisk, growPartition, permPartition } from "./disk.ts";
import { DamagedError, nextStep, type Observed, permName, type Step, SubstrateError } from "./plan.ts";

export const permDevice = `/dev/${groupName}/${permName}`;
/** More than any disk needs: a step that changes nothing would otherwise go on for ever. */
const maxSteps = 30;
const fsckTimeoutMs = 30 * 60_000;

export type Say = (text: string) => void;

type Whose = Pick<BootDisk, "disk">;

/** Resolves when `/perm` is mounted. Throws SubstrateError, with nothing changed that may hold data. */
export async function prepareSubstrate(boot: Whose, say: Say): Promise<void> {
  await makeVolumes(boot, say, "pool");
  await checkPerm(say);
  await mountPerm();
  // A growth may have been cut before the filesystem took it; without one this does nothing.
  await runTool(["resize2fs", permDevice], "", fsckTimeoutMs);
}

/** Up to the volume of `/perm` with its filesystem, or to the thin pool, which comes last. Throws SubstrateError. */
export async function makeVolumes(boot: Whose, say: Say, until: "perm" | "pool"): Promise<void> {
  await runTool(["modprobe", "-a", "dm_mod", "dm_thin_pool", "ext4"]);
  for (let i = 0; ; i++) {
    const observed = await observe(boot);
    const step = nextStep(observed);
    if (step === undefined || (until === "perm" && step.kind === "createPool")) break;
    if (i === maxSteps)
      throw new SubstrateError(`The disk ${boot.disk} does not come up: "${step.kind}" has no effect.`);
    say(`disk: ${step.kind}`);
    await carryOut(step, boot, observed);
  }
}

async function observe(boot: Whose): Promise<Observed> {
  const partition = await permPartition(boot);
  const none = { group: undefined, pvGrowBytes: 0, groupSizeBytes: 0, groupFreeBytes: 0, volumes: [], active: false };
  if (partition.contents !== "LVM2_member") return { partition, ...none };
  const lvm = new Lvm(partition.device);
  const pv = await lvm.physicalVolume();
  if (pv.group?.name !== groupName) return { partition, ...none, group: pv.group?.name };
  const volumes = await lvm.volumes();
  return {
    partition,
    group: groupName,
    // LVM keeps its first MiB and rounds down to whole extents.
    pvGrowBytes: Math.max(0, pv.deviceBytes - pv.sizeBytes - 8 * 1024 * 1024),
    groupSizeBytes: pv.group.sizeBytes,
    groupFreeBytes: pv.group.freeBytes,
    volumes,
    active: volumes.every(({ active, isThin }) => active || isThin),
  };
}

async function carryOut(step: Step, boot: Whose, { partition }: Observed): Promise<void> {
  const lvm = new Lvm(partition.device);
  switch (step.kind) {
    case "growPartition":
      return await growPartition(boot, partition);
    case "createPhysicalVolume":
      return await lvm.createPhysicalVolume();
    case "createGroup":
      return await lvm.createGroup();
    case "growPhysicalVolume":
      return await lvm.growPhysicalVolume();
    case "activate":
      return await lvm.activate();
    case "createPerm":
      return await lvm.createLinear(permName, step.sizeBytes);
    case "formatPerm":
      // Lazily initialised tables are finished by the kernel later: a first boot does not wait for them.
      await runTool(["mke2fs", "-q", "-F", "-t", "ext4", "-L", permName, permDevice], "", fsckTimeoutMs);
      await runTool(["sync"]);
      return await lvm.addTag(permName, wholeTag);
    case "growPerm":
      return await lvm.extend(permName, step.sizeBytes);
    case "removeVolume":
      return await lvm.remove(step.name);
    case "createPool":
      await lvm.createPool(thinPoolName, step.sizeBytes, step.metadataBytes);
      return await lvm.addTag(thinPoolName, wholeTag);
    case "markPool":
      return await lvm.addTag(thinPoolName, wholeTag);
    default:
      step satisfies never;
  }
}

/** Replays the journal and repairs what needs no decision (e2fsck(8), -p). Throws SubstrateError for more. */
async function checkPerm(say: Say): Promise<void> {
  try {
    await runTool(["e2fsck", "-p", permDevice], "", fsckTimeoutMs);
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    // 1 and 2 (bits): errors were corrected.
    if (/code [123]\b/.test(error.message)) return say("disk: /perm was repaired");
    throw new DamagedError(
      `The filesystem of /perm (${permDevice}) is damaged in a way that needs a decision, and was not mounted: nothing was changed. ` +
        "`capsulectl capsule repair --dry-run` says what a repair would do, `capsulectl capsule repair` does it.",
      { cause: error },
    );
  }
}

export async function mountPermAt(dir: string): Promise<void> {
  await runTool(["mount", "-t", "ext4", "-o", "noatime,nosuid,nodev,errors=remount-ro", permDevice, dir]);
}

/** Mounts it aside first: what was logged until now is on the root's overlay, and moves along. */
async function mountPerm(): Promise<void> {
  const aside = "/run/capsule/perm";
  await mkdir(aside, { recursive: true });
  await mountPermAt(aside);
  await mkdir(join(aside, "log"), { recursive: true });
  for (const name of await readdir("/perm/log").catch(() => [])) {
    await appendFile(join(aside, "log", name), await readFile(join("/perm/log", name)));
  }
  // Not moved: below a mount that is shared the kernel refuses that (mount(2)), and capsule-init shares all.
  await runTool(["mount", "--bind", aside, "/perm"]);
  await runTool(["umount", aside]);
  await rm(aside, { recursive: true, force: true });
}
