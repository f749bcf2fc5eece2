/** The dashboard's model after a message: a pure function, so that every way through it can be tested. */
import { type FeedMessage, updateCapsule, withGap } from "./feed-update.ts";
import { inOrder, type Model, mostLogLines, type Order, panelLength, shownCapsule } from "./model.ts";
import { plain } from "./text.ts";

export type Message =
  /** From the feed of the capsule with this index, heard at this time (milliseconds since the epoch). */
  | { readonly kind: "feed"; readonly capsule: number; readonly of: FeedMessage; readonly at: number }
  | { readonly kind: "logs"; readonly capsule: number; readonly workload: string; readonly of: LogMessage }
  | { readonly kind: "second" }
  | Action;

export type LogMessage =
  /** The log is read from here on; what was shown of it comes again. */
  | { readonly kind: "start" }
  | { readonly kind: "lines"; readonly lines: readonly string[] }
  | { readonly kind: "note"; readonly note: string };

/** What a key asks for. `page`: rows of the panel, of which a page is one less. */
export type Action =
  | { readonly kind: "capsule"; readonly by: number }
  | { readonly kind: "choose"; readonly index: number }
  | { readonly kind: "all" }
  | { readonly kind: "select"; readonly by: number }
  | { readonly kind: "open" }
  | { readonly kind: "panel"; readonly panel: Model["panel"] }
  | { readonly kind: "large" }
  | { readonly kind: "order" }
  | { readonly kind: "scroll"; readonly by: number; readonly rows: number }
  | { readonly kind: "help" }
  | { readonly kind: "leave" };

const orders: Readonly<Record<Order, Order>> = { name: "cpu", cpu: "memory", memory: "name" };

export function update(model: Model, message: Message): Model {
  switch (message.kind) {
    case "feed": {
      const before = model.capsules[message.capsule];
      if (before === undefined) return model;
      const after = updateCapsule(before, message.of, message.at);
      const next = { ...model, capsules: model.capsules.with(message.capsule, after) };
      const isRead = message.capsule === model.shown && model.panel === "events";
      const added = message.of.kind === "events" ? message.of.events.length : 0;
      return isRead ? heldBack(next, added) : next;
    }
    case "logs":
      return withLog(model, message);
    case "second":
      return { ...model, capsules: model.capsules.map(withGap) };
    case "capsule": {
      const { length } = model.capsules;
      return show(model, (model.shown + message.by + length) % length);
    }
    case "choose":
      return message.index < model.capsules.length ? show(model, message.index) : model;
    case "all":
      return { ...model, view: "all" };
    case "select":
      return select(model, message.by);
    case "open":
      if (model.view === "all") return show(model, model.shown);
      return { ...withPanel(model, "logs"), view: "capsule" };
    case "panel":
      return { ...withPanel(model, message.panel), view: "capsule" };
    case "large":
      return model.view === "capsule" ? { ...model, isLarge: !model.isLarge } : model;
    case "order":
      return { ...model, order: orders[model.order] };
    case "scroll": {
      const most = Math.max(0, panelLength(model) - message.rows);
      return { ...model, back: Math.min(most, Math.max(0, model.back + message.by)) };
    }
    case "help":
      return { ...model, view: model.view === "help" ? "capsule" : "help" };
    case "leave":
      // One step back: from the help, from a large panel, from its log.
      if (model.view !== "capsule") return { ...model, view: "capsule" };
      return model.isLarge ? { ...model, isLarge: false } : withPanel(model, "events");
  }
}

/** The workload whose log is to be read now; undefined when none is in sight. */
export function wantedLog(model: Model): { readonly capsule: number; readonly workload: string } | undefined {
  const workload = shownCapsule(model).selected;
  if (model.panel !== "logs" || model.view !== "capsule" || workload === undefined) return undefined;
  return { capsule: model.shown, workload };
}

function show(model: Model, shown: number): Model {
  return { ...model, shown, view: "capsule", back: 0 };
}

function withPanel(model: Model, panel: Model["panel"]): Model {
  return model.panel === panel ? model : { ...model, panel, back: 0 };
}

function select(model: Model, by: number): Model {
  if (model.view === "all") {
    const { length } = model.capsules;
    return { ...model, shown: Math.min(length - 1, Math.max(0, model.shown + by)), back: 0 };
  }
  const capsule = shownCapsule(model);
  const rows = inOrder(capsule, model.order);
  const at = rows.findIndex(({ name }) => name === capsule.selected);
  const selected = rows[Math.min(rows.length - 1, Math.max(0, at + by))]?.name;
  if (selected === capsule.selected) return model;
  const back = model.panel === "logs" ? 0 : model.back;
  return { ...model, back, capsules: model.capsules.with(model.shown, { ...capsule, selected }) };
}

function withLog(model: Model, { capsule, workload, of }: Extract<Message, { kind: "logs" }>): Model {
  const isSame = model.logs?.capsule === capsule && model.logs.workload === workload;
  const logs = isSame && model.logs !== undefined ? model.logs : { capsule, workload, lines: [], note: "" };
  switch (of.kind) {
    case "start":
      return { ...model, logs: { ...logs, lines: [] }, back: model.panel === "logs" ? 0 : model.back };
    case "lines": {
      const lines = [...logs.lines, ...of.lines.map(plain)].slice(-mostLogLines);
      const next = { ...model, logs: { ...logs, lines } };
      return model.panel === "logs" ? heldBack(next, of.lines.length) : next;
    }
    case "note":
      return { ...model, logs: { ...logs, note: plain(of.note) } };
  }
}

/** Whoever reads further back goes on seeing the same lines when others come. */
function heldBack(model: Model, added: number): Model {
  return model.back === 0 ? model : { ...model, back: Math.min(model.back + added, panelLength(model)) };
}
