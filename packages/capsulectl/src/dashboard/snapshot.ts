/** The same as text, once: for a pipe, a file, or a terminal that cannot be drawn on. */
import { span as durationText } from "../output.ts";
import { textOf } from "./line.ts";
import { type CapsuleModel, inOrder, type Model } from "./model.ts";
import { eventLine, linkSpan, rate, sizes, usageTexts } from "./parts.ts";
import { fit, widthOf } from "./text.ts";

const shownEvents = 20;

/** Whether everything that a snapshot shows has been told, or will not be. */
export function isComplete({ capsules }: Model): boolean {
  return capsules.every(
    ({ link, info, samples, isSynced, usages }) =>
      link.state === "down" || (info !== undefined && samples > 1 && isSynced && usages > 1),
  );
}

/** Lines without anything that a terminal obeys. */
export function snapshot(model: Model, now: number): string[] {
  return model.capsules.flatMap((capsule, i) => [...(i === 0 ? [] : [""]), ...capsuleText(capsule, now)]);
}

function capsuleText(capsule: CapsuleModel, now: number): string[] {
  const { name, host, link, info, machine, pools, events } = capsule;
  const reason = link.state === "down" ? `UNREACHABLE: ${link.reason}` : linkSpan(capsule, now).text;
  if (link.state !== "up" || info === undefined || machine === undefined) return [`${name}  ${host}  ${reason}`];
  const workloads = inOrder(capsule, "name").map((row) => {
    const { cpu, memory } = usageTexts(row.usage, true);
    return [row.name, row.phase, cpu, memory, String(row.restarts), durationText(now - row.createdAt), row.message];
  });
  return [
    `${name}  ${host}  ${reason}  ${info.hostname} ${info.version} (${info.mode})  up ${durationText(now - info.bootedAt)}`,
    ...info.warnings.map((warning) => `Warning:  ${warning}`),
    `CPU:      ${machine.cpuPercent.toFixed(0)}% of ${machine.cpus}, load ${machine.load.toFixed(2)}`,
    `Memory:   ${sizes(machine.memoryUsedBytes, machine.memoryBytes)}`,
    ...pools.map((pool) => `Pool:     ${pool.name} ${sizes(pool.usedBytes, pool.sizeBytes)}`),
    `Network:  ${rate(machine.receiveRate)} in, ${rate(machine.sendRate)} out`,
    "Workloads:",
    ...table([["WORKLOAD", "PHASE", "CPU", "MEMORY", "RESTARTS", "AGE", "MESSAGE"], ...workloads]),
    "Events:",
    ...events.slice(-shownEvents).map((event) => textOf(eventLine(event, now))),
  ];
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => widthOf(row[i] ?? ""))));
  return rows.map((row) => ` ${row.map((cell, i) => fit(cell, widths[i] ?? 0)).join("  ")}`.trimEnd());
}
