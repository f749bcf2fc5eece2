/** All capsules, a line each. */
import { span as durationText } from "../output.ts";
import { type Line, lineOf, type Span, span } from "./line.ts";
import { type CapsuleModel, fullestPool, type Model, percentOf } from "./model.ts";
import { linkSpan, rate } from "./parts.ts";
import { graph } from "./series.ts";
import { fit } from "./text.ts";

const nameWidth = 18;
const graphWidth = 10;
/** From this width on the network has a column. */
const wideColumns = 110;

export function allView(model: Model, columns: number, rows: number, now: number): Line[] {
  const { capsules, shown } = model;
  const room = rows - 1;
  const first = Math.max(0, Math.min(shown - Math.floor(room / 2), capsules.length - room));
  const isWide = columns >= wideColumns;
  const net = isWide ? ` ${fit("NET", 11, "right")}` : "";
  const title = `  ${fit("CAPSULE", nameWidth)} ${fit("CPU", graphWidth + 5)} ${fit("MEM", 5, "right")} ${fit("POOL", 5, "right")}${net} ${fit("RUNNING", 7, "right")}  STATE`;
  const body = capsules.slice(first, first + room).map((capsule, i): Line => {
    const isSelected = first + i === shown;
    const spans = [span(isSelected ? "> " : "  "), ...cells(capsule, first + i + 1, isWide), ...state(capsule, now)];
    return isSelected ? lineOf(columns, [span(spans.map(({ text }) => text).join(""), "bar")], "bar") : spans;
  });
  return [[span(title, "strong")], ...body];
}

function cells(capsule: CapsuleModel, number: number, isWide: boolean): Span[] {
  const { name, machine, graphs, workloads, samples } = capsule;
  const pool = fullestPool(capsule);
  const percent = (value: number | undefined): string =>
    fit(value === undefined ? "-" : `${value.toFixed(0)}%`, 5, "right");
  const running = workloads.filter(({ phase }) => phase === "RUNNING").length;
  const memory = machine === undefined ? undefined : (machine.memoryUsedBytes / machine.memoryBytes) * 100;
  const traffic = machine === undefined ? "-" : rate(machine.receiveRate + machine.sendRate);
  return [
    span(`${fit(`${number} ${name}`, nameWidth)} `),
    span(graph(graphs.cpu, graphWidth, 1, 100)[0] ?? "", "graph"),
    span(percent(samples > 1 ? machine?.cpuPercent : undefined)),
    span(` ${percent(memory)} ${percent(pool === undefined ? undefined : percentOf(pool))}`),
    span(isWide ? ` ${fit(traffic, 11, "right")}` : ""),
    span(` ${fit(`${running}/${workloads.length}`, 7, "right")}  `),
  ];
}

function state(capsule: CapsuleModel, now: number): Span[] {
  if (capsule.link.state === "down")
    return [span(`DOWN ${durationText(now - capsule.link.since)}: ${capsule.link.reason}`, "bad")];
  const link = linkSpan(capsule, now);
  const [warning] = capsule.info?.warnings ?? [];
  return link.style === "good" && warning !== undefined ? [span(`! ${warning}`, "warn")] : [link];
}
