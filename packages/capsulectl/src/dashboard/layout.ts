/** The screen that shows a model: a pure function of the model, the size and the time, to lines of exactly that size. */

import { bytes, span as durationText } from "../output.ts";
import { allView } from "./all-view.ts";
import { type Line, lineOf, type Span, type Style, span } from "./line.ts";
import {
  type CapsuleModel,
  fullestPool,
  inOrder,
  type Model,
  percentOf,
  shownCapsule,
  type WorkloadRow,
} from "./model.ts";
import { eventLine, linkSpan, phaseStyle, rate, sizes, usageTexts } from "./parts.ts";
import { graph, topOf } from "./series.ts";
import { fit, widthOf } from "./text.ts";

export interface Size {
  readonly columns: number;
  readonly rows: number;
}

export const leastSize: Size = { columns: 80, rows: 24 };
/** From this width on there is room for four graphs beside each other, and for more columns. */
const wideColumns = 110;

/** `now` in milliseconds since the epoch. */
export function layout(model: Model, size: Size, now: number): Line[] {
  const { columns, rows } = size;
  const lines = isTooSmall(size) ? smallScreen(size) : screen(model, size, now);
  return Array.from({ length: rows }, (_, row) => lineOf(columns, lines[row] ?? []));
}

export function isTooSmall({ columns, rows }: Size): boolean {
  return columns < leastSize.columns || rows < leastSize.rows;
}

/** Rows that the panel has for its lines. */
export function panelRows(model: Model, size: Size): number {
  return parts(model, size).panel;
}

/** How many rows each part of the view of one capsule has. */
function parts(model: Model, { columns, rows }: Size) {
  const warning = (shownCapsule(model).info?.warnings.length ?? 0) > 0 ? 1 : 0;
  // Tabs, health, title of the panel, keys.
  const left = rows - 4 - warning;
  if (model.isLarge) return { warning, graphs: 0, table: 0, panel: left };
  const graphs = columns >= wideColumns ? 1 + (rows >= 36 ? 6 : 4) : 2 * (rows >= 36 ? 4 : 3);
  // The title of the table is a row too.
  const table = Math.floor((left - graphs) / 2);
  return { warning, graphs, table, panel: left - graphs - table };
}

function smallScreen({ columns, rows }: Size): Line[] {
  const said = [
    `This terminal has ${columns} columns and ${rows} rows,`,
    `the dashboard needs ${leastSize.columns} and ${leastSize.rows}.`,
    "Enlarge it, or leave by q.",
  ];
  return said.map((text) => [span(text)]);
}

function screen(model: Model, size: Size, now: number): Line[] {
  const { columns, rows } = size;
  if (model.view === "help") return withKeys([tabs(model, columns), ...helpLines], size, "any key: back   q quit");
  if (model.view === "all") {
    const keys = "q quit   ↑↓ select   enter show   1-9 capsule   ? help";
    return withKeys([tabs(model, columns), ...allView(model, columns, rows - 2, now)], size, keys);
  }
  const capsule = shownCapsule(model);
  const { warning, graphs, table } = parts(model, size);
  const lines = [
    tabs(model, columns),
    health(capsule, now),
    ...(warning === 0 ? [] : [warningLine(capsule)]),
    ...(graphs === 0 ? [] : graphLines(capsule, columns, graphs)),
    ...(table === 0 ? [] : tableLines(model, columns, table, now)),
    ...panelLines(model, size, now),
  ];
  const several = model.capsules.length > 1 ? "tab next  0 all  " : "";
  return withKeys(lines, size, `q quit  ${several}↑↓ select  l log  e events  z large  s sort  ? help`);
}

function withKeys(lines: readonly Line[], { columns, rows }: Size, keys: string): Line[] {
  const above = Array.from({ length: rows - 1 }, (_, row) => lines[row] ?? []);
  return [...above, lineOf(columns, [span(` ${keys}`, "faint")])];
}

/** The capsules, the one that is shown set off; "!" behind one that needs an eye. */
function tabs(model: Model, columns: number): Line {
  const names = model.capsules.map(({ name, link, info }, i) => {
    const mark = link.state === "down" || (info?.warnings.length ?? 0) > 0 ? "!" : "";
    return i === model.shown && model.view !== "all" ? `[${i + 1} ${name}${mark}]` : ` ${i + 1} ${name}${mark} `;
  });
  // The one that is shown is always in sight, and the others as far as there is room.
  const room = columns - widthOf(" Capsule ");
  let first = 0;
  while (first < model.shown && widthOf(names.slice(first, model.shown + 1).join("")) > room) first++;
  return lineOf(columns, [span(` Capsule ${names.slice(first).join("")}`, "bar")], "bar");
}

function health(capsule: CapsuleModel, now: number): Line {
  const { info, workloads, host } = capsule;
  const state = linkSpan(capsule, now);
  if (capsule.link.state === "down") return [span(` ${host}  `), state];
  const running = workloads.filter(({ phase }) => phase === "RUNNING").length;
  const facts =
    info === undefined
      ? ""
      : `  ${info.hostname} ${info.version} (${info.mode})  up ${durationText(now - info.bootedAt)}  ${running} of ${workloads.length} running`;
  return [span(` ${host}  `), state, span(facts)];
}

function warningLine({ info }: CapsuleModel): Line {
  const [first = "", ...more] = info?.warnings ?? [];
  const others = more.length === 0 ? "" : `(1 of ${more.length + 1}, see capsule info) `;
  return [span(` ! ${others}${first}`, "warn")];
}

function graphLines(capsule: CapsuleModel, columns: number, rows: number): Line[] {
  const beside = columns >= wideColumns ? 4 : 2;
  // A blank at the left of each, and one at the right of the last.
  const width = Math.floor((columns - 1) / beside) - 1;
  const height = Math.floor(rows / (4 / beside)) - 1;
  const blocks = graphsOf(capsule, width).map(({ title, series, top, style }) => [
    [span(` ${fit(title, width)}`, "strong")],
    ...graph(series, width, height, top).map((text) => [span(` ${text}`, style)]),
  ]);
  const lines: Line[] = [];
  for (let i = 0; i < blocks.length; i += beside) {
    const row = blocks.slice(i, i + beside);
    for (let y = 0; y <= height; y++) lines.push(row.flatMap((block) => block[y] ?? []));
  }
  return lines;
}

function graphsOf(capsule: CapsuleModel, width: number) {
  const { machine, graphs } = capsule;
  const pool = fullestPool(capsule);
  const memoryPercent =
    machine === undefined || machine.memoryBytes === 0 ? 0 : (machine.memoryUsedBytes / machine.memoryBytes) * 100;
  const isMeasured = machine !== undefined && capsule.samples > 1;
  const networkTop = topOf(graphs.network, width, 1024);
  return [
    {
      title: isMeasured
        ? `CPU ${machine.cpuPercent.toFixed(0)}% of ${machine.cpus}, load ${machine.load.toFixed(2)}`
        : "CPU",
      series: graphs.cpu,
      top: 100,
      style: styleOf(isMeasured ? machine.cpuPercent : 0),
    },
    {
      title:
        machine === undefined
          ? "MEM"
          : `MEM ${memoryPercent.toFixed(0)}%, ${sizes(machine.memoryUsedBytes, machine.memoryBytes)}`,
      series: graphs.memory,
      top: 100,
      style: styleOf(memoryPercent),
    },
    {
      title:
        pool === undefined ? "POOL" : `POOL ${pool.name} ${percentOf(pool).toFixed(0)}% of ${bytes(pool.sizeBytes)}`,
      series: graphs.pool,
      top: 100,
      style: styleOf(pool === undefined ? 0 : percentOf(pool)),
    },
    {
      title: isMeasured ? `NET ↓${rate(machine.receiveRate)} ↑${rate(machine.sendRate)}` : "NET",
      series: graphs.network,
      top: networkTop,
      style: "graph" as Style,
    },
  ];
}

/** Of a part that is in use, in percent. */
function styleOf(percent: number): Style {
  return percent >= 95 ? "bad" : percent >= 80 ? "warn" : "graph";
}

function tableLines(model: Model, columns: number, rows: number, now: number): Line[] {
  const capsule = shownCapsule(model);
  const all = inOrder(capsule, model.order);
  const room = rows - 1;
  const selected = all.findIndex(({ name }) => name === capsule.selected);
  const first = Math.max(0, Math.min(selected - Math.floor(room / 2), all.length - room));
  const nameWidth = columns >= wideColumns ? 30 : 18;
  const memoryWidth = columns >= wideColumns ? 20 : 9;
  const cells = (name: string, phase: Span, cpu: string, memory: string, restarts: string, age: string): Span[] => [
    span(`${fit(name, nameWidth)} `),
    { ...phase, text: `${fit(phase.text, 9)} ` },
    span(
      `${fit(cpu, 7, "right")} ${fit(memory, memoryWidth, "right")} ${fit(restarts, 5, "right")} ${fit(age, 7, "right")}  `,
    ),
  ];
  const last = all.length > room ? `${first + 1}-${first + room} of ${all.length}` : "MESSAGE";
  const by = (order: Model["order"], title: string): string => (model.order === order ? `*${title}` : title);
  const title = cells(
    `${by("name", "WORKLOAD")}`,
    span("PHASE"),
    by("cpu", "CPU"),
    by("memory", "MEMORY"),
    "RSTRT",
    "AGE",
  ).map(({ text }) => text);
  const head = lineOf(columns, [span(` ─${title.join("")}${last}`, "strong")]);
  if (all.length === 0) return [head, [span(capsule.isSynced ? "  no workloads" : "", "faint")], ...blank(rows - 2)];
  const body = all.slice(first, first + room).map((row: WorkloadRow) => {
    const isSelected = row.name === capsule.selected;
    const { cpu, memory } = usageTexts(row.usage, columns >= wideColumns);
    const spans = [
      span(isSelected ? "> " : "  "),
      ...cells(
        row.name,
        span(row.phase, capsule.link.state === "up" ? phaseStyle(row.phase) : "faint"),
        cpu,
        memory,
        String(row.restarts),
        durationText(now - row.createdAt),
      ),
      span(row.message),
    ];
    return isSelected ? lineOf(columns, [span(spans.map(({ text }) => text).join(""), "bar")], "bar") : spans;
  });
  return [head, ...body, ...blank(room - body.length)];
}

function blank(count: number): Line[] {
  return Array.from({ length: Math.max(0, count) }, () => []);
}

function panelLines(model: Model, size: Size, now: number): Line[] {
  const capsule = shownCapsule(model);
  const rows = panelRows(model, size);
  const isOfSelected = model.logs?.capsule === model.shown && model.logs.workload === capsule.selected;
  const logs = isOfSelected ? model.logs : undefined;
  const all: readonly Line[] =
    model.panel === "events"
      ? capsule.events.map((event) => eventLine(event, now))
      : (logs?.lines ?? []).map((line) => [span(` ${line}`)]);
  const back = Math.min(model.back, Math.max(0, all.length - rows));
  const note = model.panel === "logs" && logs !== undefined && logs.note !== "" ? `: ${logs.note}` : "";
  const what = model.panel === "events" ? "Events" : `Log of ${capsule.selected ?? "no workload"}${note}`;
  const moved = back === 0 ? "" : `, ${back} lines back`;
  const title = ` ─ ${what}${moved} `;
  const end = all.length - back;
  const shown = all.slice(Math.max(0, end - rows), end);
  const rule = "─".repeat(Math.max(0, size.columns - widthOf(title) - 1));
  return [[span(`${title}${rule}`, "strong")], ...shown, ...blank(rows - shown.length)];
}

const helpLines: Line[] = (
  [
    ["tab, shift-tab, ← →", "the next capsule, the one before"],
    ["1 to 9, 0", "a capsule by its number, all of them"],
    ["↑ ↓, k j", "select a workload"],
    ["enter, l", "the log of the selected workload"],
    ["e", "the events of the capsule"],
    ["z", "the log or the events on the whole screen, and back"],
    ["page up, page down", "move back in them, and forth"],
    ["home, end", "to the oldest that is known, to the newest"],
    ["s", "sort the workloads by name, processor, memory"],
    ["esc", "a step back"],
    ["q, ctrl-c", "leave"],
    ["", ""],
    ["CPU, MEM, POOL", "a column a second, full at 100 %; POOL is the fullest"],
    ["NET", "received and sent together; full at the highest in sight"],
    ["", "rounded up to a power of two, 1 KiB/s at least"],
    ["·", "in a graph: nothing was heard from the capsule then"],
    ["!", "behind a capsule: it is unreachable, or warns"],
  ] as const
).map(([key, text]) => [span(`  ${fit(key, 22)}`, "strong"), span(text)]);
