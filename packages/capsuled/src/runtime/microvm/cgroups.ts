/** Control groups of a microVM's processes on the capsule: where a container of that uid would have its own. */
import { existsSync } from "node:fs";
import { mkdir, readdir, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isVersion2, mountPoint } from "../container/cgroups.ts";
import { cgroupPath } from "../container/spec.ts";

const periodUs = 100_000;

export interface GroupLimits {
  /** 0 is unlimited. */
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  readonly pids: number;
}

/** Makes the groups and sets their limits; returns their directories, one for each hierarchy. */
export async function makeGroups(uid: string, { cpuMillis, memoryBytes, pids }: GroupLimits): Promise<string[]> {
  const quota = Math.floor((cpuMillis * periodUs) / 1_000);
  if (isVersion2()) {
    const parent = join(mountPoint, "workloads");
    await mkdir(parent, { recursive: true });
    for (const group of [mountPoint, parent])
      for (const controller of ["cpu", "memory", "pids", "io"])
        await writeFile(join(group, "cgroup.subtree_control"), `+${controller}`).catch(() => undefined);
    const group = join(mountPoint, cgroupPath(uid));
    await mkdir(group, { recursive: true });
    await set(group, "memory.max", String(memoryBytes));
    await set(group, "cpu.max", cpuMillis === 0 ? "max" : `${quota} ${periodUs}`);
    await set(group, "pids.max", String(pids));
    return [group];
  }
  const groups: string[] = [];
  for (const controller of await readdir(mountPoint)) {
    if (!existsSync(join(mountPoint, controller, "cgroup.procs"))) continue;
    // A new cpuset takes no process until it is filled.
    if (controller.includes("cpuset")) continue;
    const group = join(mountPoint, controller, cgroupPath(uid));
    await mkdir(group, { recursive: true });
    if (controller === "memory") await set(group, "memory.limit_in_bytes", String(memoryBytes));
    if (controller.split(",").includes("cpu"))
      await set(group, "cpu.cfs_quota_us", cpuMillis === 0 ? "-1" : `${quota}`);
    if (controller === "pids") await set(group, "pids.max", String(pids));
    groups.push(group);
  }
  return groups;
}

/** Removes the groups, which no process may be in any more. */
export async function removeGroups(uid: string): Promise<void> {
  const places = isVersion2() ? [mountPoint] : (await readdir(mountPoint)).map((name) => join(mountPoint, name));
  for (const place of places) {
    const group = join(place, cgroupPath(uid));
    // The kernel takes a moment to let go of processes that were killed.
    for (let i = 0; i < 50 && existsSync(group); i++) await rmdir(group).catch(() => sleep(20));
  }
}

/** A controller may be missing on the host of a capsule in a namespace. */
async function set(group: string, file: string, value: string): Promise<void> {
  if (existsSync(join(group, file))) await writeFile(join(group, file), value);
}
