/** Use of the machine: processor, memory, network, disks (proc(5)). */
import { readFile, statfs } from "node:fs/promises";
import { cpus, networkInterfaces, totalmem } from "node:os";
import { isWorkloadLink } from "../network/names.ts";

export interface FilesystemUsage {
  readonly mountPath: string;
  readonly sizeBytes: bigint;
  readonly usedBytes: bigint;
}

export interface MachineUsage {
  /** Since boot, in nanoseconds, over all processors. */
  readonly busyNanos: bigint;
  readonly cpus: number;
  readonly memoryUsedBytes: bigint;
  readonly memoryBytes: bigint;
  readonly load1: number;
  readonly networkReceiveBytes: bigint;
  readonly networkTransmitBytes: bigint;
}

const mounts = ["/perm"];
const nanosPerTick = 10_000_000n;

export async function readUsage(): Promise<MachineUsage> {
  const [stat, meminfo, loadavg, dev] = await Promise.all(
    ["/proc/stat", "/proc/meminfo", "/proc/loadavg", "/proc/net/dev"].map((path) => readFile(path, "utf8")),
  );
  const ticks = (/^cpu +(.*)$/m.exec(stat ?? "")?.[1] ?? "").split(" ").map((field) => BigInt(field || 0));
  // user, nice, system, idle, iowait, irq, softirq, steal: guests are in user already.
  const busy = [0, 1, 2, 5, 6, 7].reduce((sum, i) => sum + (ticks[i] ?? 0n), 0n);
  const kib = (key: string): bigint =>
    BigInt(new RegExp(`^${key}: +([0-9]+)`, "m").exec(meminfo ?? "")?.[1] ?? 0) * 1024n;
  let networkReceiveBytes = 0n;
  let networkTransmitBytes = 0n;
  for (const line of (dev ?? "").split("\n")) {
    const [name, fields] = line.split(":");
    // Only cards: what workloads send over the bridge and their links would count twice.
    if (fields === undefined || name === undefined || name.trim() === "lo" || isWorkloadLink(name.trim())) continue;
    const columns = fields.trim().split(/\s+/);
    networkReceiveBytes += BigInt(columns[0] ?? 0);
    networkTransmitBytes += BigInt(columns[8] ?? 0);
  }
  return {
    busyNanos: busy * nanosPerTick,
    cpus: cpus().length,
    memoryUsedBytes: kib("MemTotal") - kib("MemAvailable"),
    memoryBytes: BigInt(totalmem()),
    load1: Number((loadavg ?? "0").split(" ")[0]),
    networkReceiveBytes,
    networkTransmitBytes,
  };
}

export async function readFilesystems(): Promise<FilesystemUsage[]> {
  return await Promise.all(
    mounts.map(async (mountPath) => {
      const { bsize, blocks, bavail } = await statfs(mountPath, { bigint: true });
      return { mountPath, sizeBytes: bsize * blocks, usedBytes: bsize * (blocks - bavail) };
    }),
  );
}

/** Addresses by which others reach the capsule: not loopback's, not those of workloads' links. */
export function ownAddresses(): string[] {
  return Object.entries(networkInterfaces()).flatMap(([name, addresses]) =>
    isWorkloadLink(name) ? [] : (addresses ?? []).filter(({ internal }) => !internal).map(({ address }) => address),
  );
}
