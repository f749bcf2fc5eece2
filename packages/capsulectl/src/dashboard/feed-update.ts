/** What becomes of a capsule's model when its feed tells something. */
import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";
import {
  type Event,
  EventType,
  type GetInfoResponse,
  Health,
  Phase,
  type SystemStatsResponse,
  type Workload,
  type WorkloadStats,
} from "@capsule/api";
import { type CapsuleModel, fullestPool, type GraphName, mostEvents, percentOf, type WorkloadRow } from "./model.ts";
import { append } from "./series.ts";
import { plain } from "./text.ts";

export type FeedMessage =
  | { readonly kind: "connecting" }
  | { readonly kind: "up" }
  /** The connection is lost or was never made; `retryAt` in milliseconds since the epoch. */
  | { readonly kind: "down"; readonly reason: string; readonly retryAt: number }
  | { readonly kind: "info"; readonly info: GetInfoResponse }
  | { readonly kind: "machine"; readonly stats: SystemStatsResponse }
  | { readonly kind: "workload"; readonly workload: Workload }
  | { readonly kind: "gone"; readonly name: string }
  /** All workloads that there are have been told of. */
  | { readonly kind: "synced" }
  | { readonly kind: "usage"; readonly usage: readonly WorkloadStats[] }
  | { readonly kind: "events"; readonly events: readonly Event[] };

/** `now` in milliseconds since the epoch. */
export function updateCapsule(capsule: CapsuleModel, message: FeedMessage, now: number): CapsuleModel {
  switch (message.kind) {
    case "connecting":
      // The reason stays in sight while another try is made.
      return capsule.link.state === "down" ? capsule : { ...capsule, link: { state: "connecting" } };
    case "up":
      return {
        ...capsule,
        link: { state: "up" },
        samples: 0,
        usages: 0,
        isSynced: false,
        workloads: capsule.workloads.map((row) => ({ ...row, isConfirmed: false })),
        // They are told again from the start.
        events: [],
      };
    case "down": {
      const { link } = capsule;
      const since = link.state === "down" ? link.since : now;
      const { reason, retryAt } = message;
      return { ...capsule, link: { state: "down", reason: plain(oneLine(reason)), since, retryAt } };
    }
    case "info":
      return withInfo(capsule, message.info, now);
    case "machine":
      return withSample(capsule, message.stats, now);
    case "workload":
      return withWorkload(capsule, message.workload);
    case "gone":
      return withWorkloads(
        capsule,
        capsule.workloads.filter(({ name }) => name !== plain(message.name)),
      );
    case "synced":
      return {
        ...withWorkloads(
          capsule,
          capsule.workloads.filter(({ isConfirmed }) => isConfirmed),
        ),
        isSynced: true,
      };
    case "usage":
      return withUsage(capsule, message.usage);
    case "events":
      return { ...capsule, events: [...capsule.events, ...message.events.map(eventRow)].slice(-mostEvents) };
  }
}

/** A second without a sample is a gap in the graphs. */
export function withGap(capsule: CapsuleModel): CapsuleModel {
  if (capsule.link.state === "up" || capsule.graphs.cpu.length === 0) return capsule;
  return withValues(capsule, { cpu: undefined, memory: undefined, pool: undefined, network: undefined });
}

function withValues(capsule: CapsuleModel, values: Readonly<Record<GraphName, number | undefined>>): CapsuleModel {
  const { cpu, memory, pool, network } = capsule.graphs;
  const graphs = {
    cpu: append(cpu, values.cpu),
    memory: append(memory, values.memory),
    pool: append(pool, values.pool),
    network: append(network, values.network),
  };
  return { ...capsule, graphs };
}

function withInfo(capsule: CapsuleModel, info: GetInfoResponse, now: number): CapsuleModel {
  const uptimeMs = info.uptime === undefined ? 0 : Number(info.uptime.seconds) * 1000;
  return {
    ...capsule,
    info: {
      hostname: plain(info.hostname),
      version: plain(info.version),
      mode: plain(info.mode),
      bootedAt: now - uptimeMs,
      warnings: info.warnings.map((text) => plain(oneLine(text))),
    },
    pools: info.pools.map(({ name, usedBytes, sizeBytes }) => ({
      name: plain(name),
      usedBytes: Number(usedBytes),
      sizeBytes: Number(sizeBytes),
    })),
  };
}

function withSample(capsule: CapsuleModel, stats: SystemStatsResponse, now: number): CapsuleModel {
  const before = capsule.samples > 0 ? capsule.machine : undefined;
  const sampledAt = msOf(stats.time);
  const seconds = before === undefined ? 0 : (sampledAt - before.sampledAt) / 1000;
  // A capsule that was restarted counts from 0 again.
  const rate = (count: number, old: number | undefined): number =>
    seconds > 0 && old !== undefined ? Math.max(0, count - old) / seconds : 0;
  const receivedBytes = Number(stats.networkReceiveBytes);
  const sentBytes = Number(stats.networkTransmitBytes);
  const machine = {
    heardAt: now,
    sampledAt,
    cpus: stats.cpus,
    cpuPercent: stats.cpus > 0 ? Math.min(100, stats.cpuMillis / 10 / stats.cpus) : 0,
    load: stats.load1,
    memoryUsedBytes: Number(stats.memoryUsedBytes),
    memoryBytes: Number(stats.memoryBytes),
    receivedBytes,
    sentBytes,
    receiveRate: rate(receivedBytes, before?.receivedBytes),
    sendRate: rate(sentBytes, before?.sentBytes),
  };
  const next = { ...capsule, machine, samples: capsule.samples + 1 };
  if (before === undefined) return next;
  const pool = fullestPool(capsule);
  return withValues(next, {
    cpu: machine.cpuPercent,
    memory: machine.memoryBytes > 0 ? (machine.memoryUsedBytes / machine.memoryBytes) * 100 : 0,
    pool: pool === undefined ? undefined : percentOf(pool),
    network: machine.receiveRate + machine.sendRate,
  });
}

function withWorkload(capsule: CapsuleModel, { spec, status, createdAt }: Workload): CapsuleModel {
  const name = plain(spec?.name ?? "");
  const at = capsule.workloads.findIndex((row) => row.name === name);
  const phase = phaseOf(status);
  const row: WorkloadRow = {
    name,
    phase,
    message: plain(oneLine(status?.message ?? "")),
    restarts: status?.restartCount ?? 0,
    createdAt: msOf(createdAt),
    usage: status?.phase === Phase.RUNNING ? capsule.workloads[at]?.usage : undefined,
    isConfirmed: true,
  };
  if (at >= 0) return withWorkloads(capsule, capsule.workloads.with(at, row));
  return withWorkloads(
    capsule,
    [...capsule.workloads, row].sort((a, b) => (a.name < b.name ? -1 : 1)),
  );
}

function phaseOf(status: Workload["status"]): string {
  if (status?.paused === true) return "PAUSED";
  if (status?.phase === Phase.RUNNING && status.health === Health.UNHEALTHY) return "UNHEALTHY";
  return Phase[status?.phase ?? 0] ?? "?";
}

/** Selects one when none is, and the one that took its place when the selected one is gone. */
function withWorkloads(capsule: CapsuleModel, workloads: readonly WorkloadRow[]): CapsuleModel {
  if (workloads.some(({ name }) => name === capsule.selected)) return { ...capsule, workloads };
  const at = capsule.workloads.findIndex(({ name }) => name === capsule.selected);
  const selected = workloads[Math.min(Math.max(at, 0), workloads.length - 1)]?.name;
  return { ...capsule, workloads, selected };
}

function withUsage(capsule: CapsuleModel, samples: readonly WorkloadStats[]): CapsuleModel {
  const known = new Map(samples.map((one) => [plain(one.name), one]));
  const workloads = capsule.workloads.map((row) => {
    const one = known.get(row.name);
    if (one === undefined) return { ...row, usage: undefined };
    const { cpuMillis, memoryBytes, memoryLimitBytes } = one;
    const usage = { cpuMillis, memoryBytes: Number(memoryBytes), memoryLimitBytes: Number(memoryLimitBytes) };
    return { ...row, usage };
  });
  return { ...capsule, workloads, usages: capsule.usages + 1 };
}

function eventRow({ sequence, time, type, objectKind, objectName, reason, message, count }: Event) {
  return {
    sequence,
    at: msOf(time),
    isWarning: type === EventType.WARNING,
    object: plain(objectName === "" ? objectKind : objectName),
    text: plain(`${reason}: ${oneLine(message)}${count > 1 ? ` (${count} times)` : ""}`),
  };
}

function msOf(time: Timestamp | undefined): number {
  return time === undefined ? 0 : timestampMs(time);
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ");
}
