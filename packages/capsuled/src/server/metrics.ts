/**
 * What a capsule tells of itself in numbers, in the text format of Prometheus. It is read from what is there when somebody
 * asks, and nothing is counted in between: who asks never costs nothing. docs/metrics.md is generated from `families`.
 */
import { uptime } from "node:os";
import { Phase, VolumePhase } from "@capsule/api";
import { levelOf } from "../storage/pool/level.ts";
import type { PoolFacts } from "../storage/pool/watch.ts";
import type { VolumeRecord } from "../store/volumes.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import type { FilesystemUsage, MachineUsage } from "../system/usage.ts";

export interface MetricsFacts {
  readonly version: string;
  readonly mode: string;
  readonly hostname: string;
  readonly usage: MachineUsage;
  readonly filesystems: readonly FilesystemUsage[];
  readonly pools: readonly PoolFacts[];
  readonly volumes: readonly Pick<VolumeRecord, "name" | "pool" | "spec" | "status">[];
  readonly workloads: readonly Pick<WorkloadRecord, "name" | "status">[];
}

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [Labels, number | bigint];

interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  readonly labels: readonly string[];
  readonly samples: (facts: MetricsFacts) => readonly Sample[];
}

const nanosPerSecond = 1e9;

export const families: readonly Family[] = [
  gauge("capsule_info", "What runs; always 1", ["version", "mode", "hostname"], ({ version, mode, hostname }) => [
    [{ version, mode, hostname }, 1],
  ]),
  gauge("capsule_uptime_seconds", "Time since the kernel started", [], () => [[{}, uptime()]]),
  counter("capsule_cpu_seconds_total", "Time that processors were busy, all together", [], ({ usage }) => [
    [{}, Number(usage.busyNanos) / nanosPerSecond],
  ]),
  gauge("capsule_cpus", "Processors", [], ({ usage }) => [[{}, usage.cpus]]),
  gauge("capsule_memory_size_bytes", "Memory of the machine", [], ({ usage }) => [[{}, usage.memoryBytes]]),
  gauge("capsule_memory_used_bytes", "Memory that is not available to programs", [], ({ usage }) => [
    [{}, usage.memoryUsedBytes],
  ]),
  counter("capsule_network_receive_bytes_total", "Received by the network cards", [], ({ usage }) => [
    [{}, usage.networkReceiveBytes],
  ]),
  counter("capsule_network_transmit_bytes_total", "Sent by the network cards", [], ({ usage }) => [
    [{}, usage.networkTransmitBytes],
  ]),
  gauge("capsule_filesystem_size_bytes", "Size of a filesystem of the system", ["path"], ({ filesystems }) =>
    filesystems.map(({ mountPath, sizeBytes }) => [{ path: mountPath }, sizeBytes]),
  ),
  gauge("capsule_filesystem_used_bytes", "Of it, not available", ["path"], ({ filesystems }) =>
    filesystems.map(({ mountPath, usedBytes }) => [{ path: mountPath }, usedBytes]),
  ),
  gauge("capsule_pool_up", "1 when the pool can be used, 0 when not", ["pool", "backend"], ({ pools }) =>
    pools.map(({ name, backend, usage }) => [{ pool: name, backend }, usage === undefined ? 0 : 1]),
  ),
  ofPools("capsule_pool_size_bytes", "Size of the pool", ({ sizeBytes }) => sizeBytes),
  ofPools("capsule_pool_used_bytes", "Of it, taken by disks", ({ usedBytes }) => usedBytes),
  ofPools(
    "capsule_pool_metadata_used_ratio",
    "Of what the pool keeps about its disks, the part that is taken; 0 where it cannot run out",
    ({ metadataRatio }) => metadataRatio,
  ),
  ofPools(
    "capsule_pool_level_percent",
    "The highest of the thresholds 80, 90 and 95 that data or metadata have reached; 0 below all",
    (usage) => levelOf(usage, 0),
  ),
  gauge("capsule_pool_promised_bytes", "Sizes of the pool's volumes, together", ["pool"], ({ pools }) =>
    pools.map(({ name, promisedBytes }) => [{ pool: name }, promisedBytes]),
  ),
  gauge("capsule_pool_overcommit_ratio", "How much it may promise, in its own sizes", ["pool"], ({ pools }) =>
    pools.map(({ name, overcommitPercent }) => [{ pool: name }, overcommitPercent / 100]),
  ),
  gauge("capsule_volume_size_bytes", "Size of a volume as it is wanted", ["volume", "pool"], ({ volumes }) =>
    volumes.map(({ name, pool, spec }) => [{ volume: name, pool }, spec.sizeBytes]),
  ),
  gauge("capsule_volumes", "Volumes in a phase", ["phase"], ({ volumes }) =>
    counted(phaseNames(VolumePhase), (phase) => volumes.filter(({ status }) => VolumePhase[status.phase] === phase)),
  ),
  gauge("capsule_workloads", "Workloads in a phase", ["phase"], ({ workloads }) =>
    counted(phaseNames(Phase), (phase) => workloads.filter(({ status }) => Phase[status.phase] === phase)),
  ),
  gauge("capsule_workload_restarts", "Restarts since its spec was last changed", ["workload"], ({ workloads }) =>
    workloads.map(({ name, status }) => [{ workload: name }, status.restartCount]),
  ),
  gauge("capsule_capsuled_resident_bytes", "Resident memory of capsuled", [], () => [[{}, process.memoryUsage.rss()]]),
  counter("capsule_capsuled_cpu_seconds_total", "Processor time of capsuled since it started", [], () => {
    const { user, system } = process.cpuUsage();
    return [[{}, (user + system) / 1e6]];
  }),
];

export interface Metrics {
  readonly text: string;
  readonly contentType: string;
}

export async function metricsOf(facts: MetricsFacts): Promise<Metrics> {
  // Loaded with the first question: most capsules are never asked.
  const { Counter, Gauge, Registry } = await import("prom-client");
  const registry = new Registry();
  for (const { name, help, type, labels, samples } of families) {
    const options = { name, help, labelNames: [...labels], registers: [registry] };
    if (type === "gauge") {
      const metric = new Gauge(options);
      for (const [of, value] of samples(facts)) metric.set({ ...of }, Number(value));
    } else {
      const metric = new Counter(options);
      for (const [of, value] of samples(facts)) metric.inc({ ...of }, Number(value));
    }
  }
  return { text: await registry.metrics(), contentType: registry.contentType };
}

function gauge(name: string, help: string, labels: readonly string[], samples: Family["samples"]): Family {
  return { name, help, type: "gauge", labels, samples };
}

function counter(name: string, help: string, labels: readonly string[], samples: Family["samples"]): Family {
  return { name, help, type: "counter", labels, samples };
}

/** Of those that can be asked. */
function ofPools(name: string, help: string, of: (usage: NonNullable<PoolFacts["usage"]>) => number): Family {
  return gauge(name, help, ["pool"], ({ pools }) =>
    pools.flatMap(({ name: pool, usage }) => (usage === undefined ? [] : ([[{ pool }, of(usage)]] as const))),
  );
}

/** Each phase, those of nobody too: a series that comes and goes cannot be watched. */
function counted(phases: readonly string[], of: (phase: string) => readonly unknown[]): Sample[] {
  return phases.map((phase) => [{ phase }, of(phase).length]);
}

function phaseNames(phases: Readonly<Record<string, string | number>>): string[] {
  return Object.keys(phases).filter((name) => Number.isNaN(Number(name)) && name !== "UNSPECIFIED");
}
