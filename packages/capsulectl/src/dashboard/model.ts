/**
 * What the dashboard knows. It is changed by `update` alone, and shown by `layout`. Every text in it is plain (text.ts), and
 * everything in it is bounded: a dashboard may be open for weeks.
 */
import type { Series } from "./series.ts";

/** Of each capsule. */
export const mostEvents = 200;
export const mostLogLines = 1_000;

export type Link =
  | { readonly state: "connecting" }
  | { readonly state: "up" }
  /** Times in milliseconds since the epoch. */
  | { readonly state: "down"; readonly reason: string; readonly since: number; readonly retryAt: number };

/** What the machine said last about itself. */
export interface Info {
  readonly hostname: string;
  readonly version: string;
  readonly mode: string;
  readonly bootedAt: number;
  readonly warnings: readonly string[];
}

export interface Pool {
  readonly name: string;
  readonly usedBytes: number;
  readonly sizeBytes: number;
}

/** The last sample of the machine's use. */
export interface Machine {
  /** When it came, by our clock. */
  readonly heardAt: number;
  /** By the capsule's clock, for rates. */
  readonly sampledAt: number;
  readonly cpus: number;
  /** Of all processors together, 0 to 100. */
  readonly cpuPercent: number;
  readonly load: number;
  readonly memoryUsedBytes: number;
  readonly memoryBytes: number;
  /** Since it booted. */
  readonly receivedBytes: number;
  readonly sentBytes: number;
  /** Bytes a second since the sample before. */
  readonly receiveRate: number;
  readonly sendRate: number;
}

export interface WorkloadRow {
  readonly name: string;
  readonly phase: string;
  readonly message: string;
  readonly restarts: number;
  readonly createdAt: number;
  /** Undefined while it does not run, or nothing was heard yet. */
  readonly usage: Usage | undefined;
  /** Told of since the connection was made; what was not is gone when all has been told. */
  readonly isConfirmed: boolean;
}

export interface Usage {
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  /** 0 when unlimited. */
  readonly memoryLimitBytes: number;
}

export interface EventRow {
  readonly sequence: bigint;
  readonly at: number;
  readonly isWarning: boolean;
  readonly object: string;
  readonly text: string;
}

export interface CapsuleModel {
  readonly name: string;
  readonly host: string;
  readonly link: Link;
  readonly info: Info | undefined;
  readonly pools: readonly Pool[];
  readonly machine: Machine | undefined;
  /** Samples since the connection was made: the first is no base for rates, nor is its use of the processors of now. */
  readonly samples: number;
  /** In percent; network in bytes a second. A value each second, all four with the same times. */
  readonly graphs: Readonly<Record<GraphName, Series>>;
  /** By name. */
  readonly workloads: readonly WorkloadRow[];
  readonly isSynced: boolean;
  /** Samples of the workloads' use since the connection was made. */
  readonly usages: number;
  readonly selected: string | undefined;
  /** Oldest first. */
  readonly events: readonly EventRow[];
}

export type GraphName = "cpu" | "memory" | "pool" | "network";

/** The log of one workload: of the one that is selected. */
export interface Logs {
  readonly capsule: number;
  readonly workload: string;
  /** Oldest first. */
  readonly lines: readonly string[];
  /** What became of the log itself, such as that it cannot be read; empty while it is followed. */
  readonly note: string;
}

export type Order = "name" | "cpu" | "memory";

export interface Model {
  readonly capsules: readonly CapsuleModel[];
  /** Index of the capsule that is shown, and selected among all. */
  readonly shown: number;
  readonly view: "capsule" | "all" | "help";
  readonly panel: "events" | "logs";
  /** The panel has the whole screen. */
  readonly isLarge: boolean;
  readonly order: Order;
  /** Lines that the panel was moved back from its end; 0 follows. */
  readonly back: number;
  readonly logs: Logs | undefined;
}

export function newModel(capsules: readonly { readonly name: string; readonly host: string }[]): Model {
  return {
    capsules: capsules.map(({ name, host }) => ({
      name,
      host,
      link: { state: "connecting" },
      info: undefined,
      pools: [],
      machine: undefined,
      samples: 0,
      graphs: { cpu: [], memory: [], pool: [], network: [] },
      workloads: [],
      isSynced: false,
      usages: 0,
      selected: undefined,
      events: [],
    })),
    shown: 0,
    view: "capsule",
    panel: "events",
    isLarge: false,
    order: "name",
    back: 0,
    logs: undefined,
  };
}

export function shownCapsule({ capsules, shown }: Model): CapsuleModel {
  const capsule = capsules[shown];
  if (capsule === undefined) throw new Error(`no capsule ${shown} of ${capsules.length}: a fault of capsulectl`);
  return capsule;
}

/** The workloads of a capsule in the order in which they are shown. */
export function inOrder({ workloads }: CapsuleModel, order: Order): readonly WorkloadRow[] {
  if (order === "name") return workloads;
  const of = ({ usage }: WorkloadRow): number =>
    usage === undefined ? -1 : order === "cpu" ? usage.cpuMillis : usage.memoryBytes;
  return [...workloads].sort((a, b) => of(b) - of(a));
}

/** How many lines there are for the panel, whether it has room for them or not. */
export function panelLength(model: Model): number {
  return model.panel === "events" ? shownCapsule(model).events.length : (model.logs?.lines.length ?? 0);
}

/** The fullest pool: that is the one to look at. */
export function fullestPool({ pools }: CapsuleModel): Pool | undefined {
  return pools.reduce<Pool | undefined>(
    (fullest, pool) => (fullest === undefined || percentOf(pool) > percentOf(fullest) ? pool : fullest),
    undefined,
  );
}

export function percentOf({ usedBytes, sizeBytes }: Pool): number {
  return sizeBytes > 0 ? (usedBytes / sizeBytes) * 100 : 0;
}
