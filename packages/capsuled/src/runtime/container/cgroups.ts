/** Resource use of a container from its cgroup, in version 1 and 2 (Documentation/admin-guide/cgroup-v1 and -v2). */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { RuntimeStats } from "../driver.ts";
import { cgroupPath } from "./spec.ts";

export const mountPoint = "/sys/fs/cgroup";
/** The kernel writes about 2^63 for "no limit" in version 1. */
const unlimited1 = 2n ** 62n;

export async function readStats(uid: string, pid: number): Promise<RuntimeStats> {
  const usage = isVersion2() ? await readVersion2(uid) : await readVersion1(uid);
  return { ...usage, ...(await readNetwork(pid)) };
}

/** Whether the kernel killed something in the container for want of memory.. */
export async function wasOutOfMemory(uid: string): Promise<boolean> {
  const file = isVersion2() ? group2(uid, "memory.events") : group1("memory", uid, "memory.oom_control");
  return fieldOf(await read(file), "oom_kill") > 0n;
}

type Usage = Omit<RuntimeStats, "networkReceiveBytes" | "networkTransmitBytes">;

async function readVersion2(uid: string): Promise<Usage> {
  const [cpu, current, max, memory, pids, io] = await Promise.all(
    ["cpu.stat", "memory.current", "memory.max", "memory.stat", "pids.current", "io.stat"].map((name) =>
      read(group2(uid, name)),
    ),
  );
  const cache = fieldOf(memory ?? "", "inactive_file");
  const sum = (key: string): bigint =>
    [...(io ?? "").matchAll(new RegExp(`\\b${key}=([0-9]+)`, "g"))].reduce(
      (total, [, value]) => total + BigInt(value ?? 0),
      0n,
    );
  return {
    cpuNanos: fieldOf(cpu ?? "", "usage_usec") * 1000n,
    memoryBytes: nonNegative(number(current) - cache),
    memoryLimitBytes: number(max),
    pids: Number(number(pids)),
    diskReadBytes: sum("rbytes"),
    diskWriteBytes: sum("wbytes"),
  };
}

async function readVersion1(uid: string): Promise<Usage> {
  const [cpu, usage, limit, memory, pids, io] = await Promise.all([
    read(group1("cpuacct", uid, "cpuacct.usage")),
    read(group1("memory", uid, "memory.usage_in_bytes")),
    read(group1("memory", uid, "memory.limit_in_bytes")),
    read(group1("memory", uid, "memory.stat")),
    read(group1("pids", uid, "pids.current")),
    read(group1("blkio", uid, "blkio.throttle.io_service_bytes")),
  ]);
  const sum = (key: string): bigint =>
    [...io.matchAll(new RegExp(` ${key} ([0-9]+)`, "g"))].reduce((total, [, value]) => total + BigInt(value ?? 0), 0n);
  const max = number(limit);
  return {
    cpuNanos: number(cpu),
    memoryBytes: nonNegative(number(usage) - fieldOf(memory, "total_inactive_file")),
    memoryLimitBytes: max >= unlimited1 ? 0n : max,
    pids: Number(number(pids)),
    diskReadBytes: sum("Read"),
    diskWriteBytes: sum("Write"),
  };
}

/** Sums the interfaces of a process's network namespace, without loopback (proc(5), /proc/net/dev). */
async function readNetwork(pid: number): Promise<{ networkReceiveBytes: bigint; networkTransmitBytes: bigint }> {
  let networkReceiveBytes = 0n;
  let networkTransmitBytes = 0n;
  for (const line of (await read(`/proc/${pid}/net/dev`)).split("\n")) {
    const [name, fields] = line.split(":");
    if (fields === undefined || name?.trim() === "lo") continue;
    const columns = fields.trim().split(/\s+/);
    networkReceiveBytes += BigInt(columns[0] ?? 0);
    networkTransmitBytes += BigInt(columns[8] ?? 0);
  }
  return { networkReceiveBytes, networkTransmitBytes };
}

export function isVersion2(): boolean {
  return existsSync(join(mountPoint, "cgroup.controllers"));
}

function group2(uid: string, file: string): string {
  return join(mountPoint, cgroupPath(uid), file);
}

function group1(controller: string, uid: string, file: string): string {
  return join(mountPoint, controller, cgroupPath(uid), file);
}

/** The container may end at any moment, and controllers may be missing: both read as nothing. */
async function read(path: string): Promise<string> {
  return await readFile(path, "utf8").catch(() => "");
}

function number(text: string | undefined): bigint {
  const digits = /^[0-9]+/.exec((text ?? "").trim())?.[0];
  return digits === undefined ? 0n : BigInt(digits);
}

function fieldOf(text: string, key: string): bigint {
  return number(new RegExp(`^${key} ([0-9]+)`, "m").exec(text)?.[1]);
}

function nonNegative(value: bigint): bigint {
  return value < 0n ? 0n : value;
}
