import { create, toJson } from "@bufbuild/protobuf";
import { durationFromMs, timestampDate } from "@bufbuild/protobuf/wkt";
import {
  type Event,
  EventsResponseSchema,
  ListWorkloadsResponseSchema,
  Phase,
  Protocol,
  RunState,
  StatsResponseSchema,
  type Workload,
  WorkloadSchema,
  WorkloadSpecSchema,
  type WorkloadStats,
} from "@capsule/api";
import { defaultWaitMs, waitOption } from "../duration.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import {
  age,
  bytes,
  type Column,
  labelsOf,
  print,
  printDone,
  printJson,
  printMessage,
  printTable,
  say,
  sayJson,
} from "../output.ts";
import { withCapsule } from "../session.ts";
import { waitUntilGone, waitUntilPaused, waitUntilStopped, waitUntilUp } from "../wait.ts";
import { type EventsOptions, eventColumns, eventsWanted, showEvents } from "./events-actions.ts";

/** Its image, or the kernel that it boots instead. */
function whatRuns(spec: Workload["spec"]): string {
  const { kind } = spec ?? {};
  return (kind?.case === "microVm" && kind.value.kernelPath) || kind?.value?.image || "";
}

const columns: Column<Workload>[] = [
  { title: "NAME", value: ({ spec }) => spec?.name ?? "" },
  { title: "KIND", value: ({ spec }) => (spec?.kind.case === "microVm" ? "MicroVM" : "Container"), wide: true },
  { title: "PHASE", value: ({ status }) => Phase[status?.phase ?? 0] ?? "" },
  { title: "IMAGE", value: ({ spec }) => whatRuns(spec) },
  { title: "ADDRESS", value: ({ status }) => status?.addresses[0] ?? "-" },
  { title: "PORTS", value: portsOf },
  { title: "RESTARTS", value: ({ status }) => String(status?.restartCount ?? 0), right: true },
  { title: "AGE", value: ({ createdAt }) => age(createdAt), right: true },
  { title: "PID", value: ({ status }) => String(status?.pid ?? 0), wide: true, right: true },
  { title: "UID", value: ({ uid }) => uid, wide: true },
  { title: "MESSAGE", value: ({ status }) => status?.message ?? "" },
];

export async function list(
  { capsule: chosen, format }: Globals,
  names: string[],
  options: { label?: string[]; watch?: boolean },
): Promise<void> {
  const request = { names, labels: labelsOf(options.label ?? []) };
  await withCapsule(chosen, async ({ workloads }) => {
    if (options.watch !== true) {
      const response = await workloads.listWorkloads(request);
      return await print(format, ListWorkloadsResponseSchema, response, response.workloads, columns);
    }
    for await (const { change } of workloads.watchWorkloads(request)) {
      if (change.case === "deleted" && format === "json") sayJson({ deleted: change.value });
      else if (change.case === "deleted") say(`${change.value}: deleted`);
      else if (change.case === "workload" && format === "json") sayJson(toJson(WorkloadSchema, change.value));
      else if (change.case === "workload") {
        const { spec, status } = change.value;
        say(`${spec?.name}: ${Phase[status?.phase ?? 0]} ${status?.message}`);
      }
    }
  });
}

export async function get({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  await withCapsule(chosen, async ({ workloads }) => {
    const { workload } = await workloads.getWorkload({ name });
    if (workload !== undefined) await printMessage(format === "json" ? "json" : "yaml", WorkloadSchema, workload);
  });
}

export async function describe({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  await withCapsule(chosen, async ({ workloads }) => {
    const { workload } = await workloads.getWorkload({ name });
    if (workload === undefined) return;
    const events: Event[] = [];
    for await (const response of workloads.events({ name, limit: 20 })) events.push(...response.events);
    if (format === "json" || format === "yaml") {
      const json = toJson(EventsResponseSchema, create(EventsResponseSchema, { events })) as { events?: unknown };
      return await printJson(format, { workload: toJson(WorkloadSchema, workload), events: json.events ?? [] });
    }
    const { spec, status, uid, generation, createdAt, desired } = workload;
    const exit = status?.lastExit;
    const facts: [string, string | undefined][] = [
      ["Name", spec?.name],
      ["Phase", `${Phase[status?.phase ?? 0]}, for ${age(status?.since)}`],
      ["Message", status?.message],
      ["Wanted", RunState[desired].toLowerCase()],
      ["Image", `${whatRuns(spec)}${status?.imageDigest ? ` (${status.imageDigest})` : ""}`],
      ["Addresses", status?.addresses.join(", ") || undefined],
      ["Ports", portsOf(workload) === "-" ? undefined : portsOf(workload)],
      ["Started", status?.pid ? `${age(status.startedAt)} ago, process ${status.pid}` : undefined],
      ["Restarts", String(status?.restartCount ?? 0)],
      [
        "Last exit",
        exit === undefined
          ? undefined
          : `code ${exit.code}, ${age(exit.finishedAt)} ago${exit.outOfMemory ? ", out of memory" : ""}`,
      ],
      ["Next try", status?.nextRetryAt === undefined ? undefined : timestampDate(status.nextRetryAt).toISOString()],
      ["Created", `${age(createdAt)} ago, generation ${generation}, uid ${uid}`],
    ];
    for (const [title, value] of facts) if (value !== undefined) say(`${`${title}:`.padEnd(11)} ${value}`);
    if (spec !== undefined)
      say(`Spec:\n${indent((await import("../yaml.ts")).stringify(toJson(WorkloadSpecSchema, spec)))}`);
    say("Events:");
    printTable(events, eventColumns);
  });
}

export async function remove(
  { capsule: chosen, format }: Globals,
  names: string[],
  options: { wait: boolean },
): Promise<void> {
  await withCapsule(chosen, async (capsule) => {
    await capsule.workloads.deleteWorkloads({ names });
    if (options.wait) await waitUntilGone(capsule, names, defaultWaitMs);
    const action = options.wait ? "deleted" : "is being deleted";
    await printDone(
      format,
      names.map((name) => ({ kind: "workload", name, action })),
    );
  });
}

const lifecycleCalls = {
  start: "startWorkload",
  stop: "stopWorkload",
  restart: "restartWorkload",
  pause: "pauseWorkload",
  resume: "resumeWorkload",
} as const;
/** What is said of one when it was waited for; "runs" when it is not here. */
const lifecycleEnds: Partial<Record<keyof typeof lifecycleCalls, string>> = { stop: "stopped", pause: "paused" };

export async function lifecycle(
  verb: keyof typeof lifecycleCalls,
  { capsule: chosen, format }: Globals,
  name: string,
  options: { wait?: string | true },
): Promise<void> {
  const waitMs = waitOption(options.wait);
  await withCapsule(chosen, async (capsule) => {
    const before = (await capsule.workloads.getWorkload({ name })).workload;
    const { workload } = await capsule.workloads[lifecycleCalls[verb]]({ name });
    const done = (action: string) => printDone(format, [{ kind: "workload", name, action }]);
    if (waitMs === undefined) return await done(`${verb} is asked for`);
    if (verb === "stop") await waitUntilStopped(capsule, name, waitMs);
    else if (verb === "pause") await waitUntilPaused(capsule, name, waitMs);
    else {
      if (verb === "restart") await waitUntilChanged(capsule, name, before?.status?.pid ?? 0, waitMs);
      await waitUntilUp(capsule, [{ name, generation: workload?.generation ?? 0n }], waitMs);
    }
    await done(lifecycleEnds[verb] ?? "runs");
  });
}

/** Until the process of before is gone: right after the request its status still speaks of it. */
async function waitUntilChanged(
  capsule: Parameters<typeof waitUntilUp>[0],
  name: string,
  pid: number,
  timeoutMs: number,
): Promise<void> {
  if (pid === 0) return;
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    for await (const { change } of capsule.workloads.watchWorkloads({ names: [name] }, { signal })) {
      if (change.case === "workload" && change.value.status?.pid !== pid) return;
      if (change.case === "deleted") return;
    }
  } catch (error) {
    if (signal.aborted) throw new CliError(`After ${timeoutMs / 1000} s ${name} has not stopped`, exitCode.timedOut);
    throw error;
  }
}

export async function events(
  { capsule: chosen, format }: Globals,
  name: string | undefined,
  options: EventsOptions,
): Promise<void> {
  const wanted = eventsWanted(options);
  await withCapsule(chosen, ({ workloads }) =>
    showEvents(format, wanted, workloads.events({ name: name ?? "", ...wanted })),
  );
}

const statsColumns: Column<WorkloadStats>[] = [
  { title: "NAME", value: ({ name }) => name },
  { title: "CPU", value: ({ cpuMillis }) => `${(cpuMillis / 10).toFixed(1)}%`, right: true },
  {
    title: "MEMORY",
    value: ({ memoryBytes, memoryLimitBytes }) =>
      bytes(memoryBytes) + (memoryLimitBytes === 0n ? "" : ` of ${bytes(memoryLimitBytes)}`),
    right: true,
  },
  { title: "PIDS", value: ({ pids }) => String(pids), right: true },
  { title: "NET IN", value: ({ networkReceiveBytes }) => bytes(networkReceiveBytes), right: true },
  { title: "NET OUT", value: ({ networkTransmitBytes }) => bytes(networkTransmitBytes), right: true },
  { title: "DISK READ", value: ({ diskReadBytes }) => bytes(diskReadBytes), right: true },
  { title: "DISK WRITE", value: ({ diskWriteBytes }) => bytes(diskWriteBytes), right: true },
];

export async function stats(
  { capsule: chosen, format }: Globals,
  names: string[],
  options: { follow?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ workloads }) => {
    // Two samples, so that a rate is known.
    let samples = 0;
    const interval = durationFromMs(options.follow === true ? 2_000 : 1_000);
    for await (const response of workloads.stats({ names, interval })) {
      if (samples++ === 0) continue;
      if (format === "json" && options.follow === true) sayJson(toJson(StatsResponseSchema, response));
      else await print(format, StatsResponseSchema, response, response.workloads, statsColumns);
      if (options.follow !== true) return;
    }
  });
}

function portsOf({ spec }: Workload): string {
  const ports = (spec?.kind.value?.ports ?? []).map(({ hostAddress, hostPort, containerPort, protocol }) => {
    const from = `${hostAddress === "" ? "" : `${hostAddress}:`}${hostPort || containerPort}`;
    return `${from}->${containerPort}${protocol === Protocol.UDP ? "/udp" : ""}`;
  });
  return ports.length === 0 ? "-" : ports.join(",");
}

function indent(text: string): string {
  return text.trimEnd().replace(/^/gm, "  ");
}
