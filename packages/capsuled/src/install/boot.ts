/** Whether the machine was started as an installer, found once for each boot, before anything is written to a disk. */
import { existsSync } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type BootDisk, permPartition } from "../storage/substrate/disk.ts";
import { type Disk, readDisks } from "./disks.ts";
import { openMedium } from "./medium.ts";
import { modeOf, wantedMode } from "./mode.ts";
import { obstacleOf } from "./targets.ts";

/** Exists on an installer; holds the BootDisk. */
export const installerFile = "/run/capsule/installer.json";
const devicesReadyFile = "/run/capsule/devices-ready";
/** Drivers find disks beside all else: after they were asked for, the first one inside the machine is waited for so long. */
const settleMs = 10_000;
const devicesMs = 30_000;
const pollMs = 200;

export async function isInstallerBoot(boot: BootDisk): Promise<boolean> {
  const wanted = wantedMode(await readFile("/proc/cmdline", "utf8"));
  const isPortable = isPortableDisk((await readDisks()).find(({ path }) => path === boot.disk));
  // Only of a stick that was told nothing more is asked: every other start goes on at once.
  const isOpen = wanted === undefined && isPortable;
  const isBegun = isOpen && (await permPartition(boot)).contents === "LVM2_member";
  const hasTarget = isOpen && !isBegun && (await findTarget(boot));
  return modeOf({ wanted, isPortable, isBegun, hasTarget }) === "installer";
}

export async function noteInstaller(boot: BootDisk): Promise<void> {
  await writeFile(`${installerFile}.new`, JSON.stringify(boot));
  await rename(`${installerFile}.new`, installerFile);
}

export function isPortableDisk(disk: Disk | undefined): boolean {
  return disk !== undefined && (disk.transport === "usb" || disk.removable);
}

async function findTarget(boot: BootDisk): Promise<boolean> {
  const medium = await openMedium(boot);
  const began = Date.now();
  let settledAt = began + devicesMs + settleMs;
  for (;;) {
    if ((await readDisks()).some((disk) => obstacleOf(disk, medium) === "")) return true;
    if (existsSync(devicesReadyFile)) settledAt = Math.min(settledAt, Date.now() + settleMs);
    if (Date.now() >= settledAt) return false;
    await sleep(pollMs);
  }
}
