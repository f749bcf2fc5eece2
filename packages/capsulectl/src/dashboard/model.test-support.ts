/** Builders of messages and models for tests. */
import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  EventSchema,
  EventType,
  GetInfoResponseSchema,
  Phase,
  SystemStatsResponseSchema,
  WorkloadSchema,
  WorkloadStatsSchema,
} from "@capsule/api";
import type { FeedMessage } from "./feed-update.ts";
import { type Model, newModel } from "./model.ts";
import { type Message, update } from "./update.ts";

/** When everything in the tests happens: milliseconds since the epoch. */
export const now = Date.UTC(2026, 0, 31, 12);
const gibi = 1024 ** 3;

export function after(model: Model, ...messages: readonly Message[]): Model {
  return messages.reduce(update, model);
}

export function feed(of: FeedMessage, capsule = 0, at = now): Message {
  return { kind: "feed", capsule, of, at };
}

export function workload(name: string, phase: Phase, message: string = Phase[phase] ?? "", restartCount = 0): Message {
  const of = create(WorkloadSchema, {
    spec: { name },
    createdAt: timestampFromMs(now - 3_700_000),
    status: { phase, message, restartCount },
  });
  return feed({ kind: "workload", workload: of });
}

export function usage(name: string, cpuMillis: number, mebi: number, limitMebi = 0): Message {
  const one = create(WorkloadStatsSchema, {
    name,
    cpuMillis,
    memoryBytes: BigInt(mebi * 1024 ** 2),
    memoryLimitBytes: BigInt(limitMebi * 1024 ** 2),
  });
  return feed({ kind: "usage", usage: [one] });
}

export function event(sequence: number, name: string, message: string, type = EventType.NORMAL): Message {
  const time = timestampFromMs(now - 60_000);
  const one = { sequence: BigInt(sequence), time, type, objectKind: "workload", objectName: name };
  return feed({ kind: "events", events: [create(EventSchema, { ...one, reason: "Started", message, count: 1 })] });
}

/** The sample of the second `second`: in use `cpuPercent` of two processors; `received` bytes since boot. */
export function sample(second: number, cpuPercent: number, received = 0): Message {
  const stats = create(SystemStatsResponseSchema, {
    time: timestampFromMs(now - 60_000 + second * 1_000),
    cpuMillis: cpuPercent * 20,
    cpus: 2,
    load1: 0.5,
    memoryUsedBytes: BigInt(2 * gibi),
    memoryBytes: BigInt(8 * gibi),
    networkReceiveBytes: BigInt(received),
  });
  return feed({ kind: "machine", stats });
}

export function info(...warnings: readonly string[]): Message {
  const of = create(GetInfoResponseSchema, {
    hostname: "nuc",
    version: "1.2.3",
    mode: "machine",
    uptime: durationFromMs(93_784_000),
    warnings: [...warnings],
    pools: [{ name: "default", usedBytes: BigInt(40 * gibi), sizeBytes: BigInt(100 * gibi) }],
  });
  return feed({ kind: "info", info: of });
}

export const two = [
  { name: "nuc-1", host: "192.0.2.1:50000" },
  { name: "nuc-2", host: "192.0.2.2:50000" },
];

/** Two capsules, the first of which runs two workloads and has been watched for some seconds. */
export function aModel(): Model {
  const samples = [5, 10, 20, 40, 80, 60, 30].map((percent, i) => sample(i, percent, i * 2_048));
  return after(
    newModel(two),
    feed({ kind: "up" }),
    info(),
    workload("db", Phase.FAILED, "The image registry.example/db:1 was not found", 3),
    workload("web", Phase.RUNNING, "Running"),
    feed({ kind: "synced" }),
    ...samples,
    usage("web", 125, 48, 256),
    event(1, "web", "Started"),
    event(2, "db", "pull access denied", EventType.WARNING),
    feed({ kind: "down", reason: "connect ECONNREFUSED", retryAt: now + 4_000 }, 1, now - 65_000),
  );
}
