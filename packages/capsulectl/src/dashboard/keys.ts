/** What a key means. */
import type { Key } from "node:readline";
import type { Model } from "./model.ts";
import type { Action } from "./update.ts";

/** `rows`: of the panel with the log or the events. Undefined: the key means nothing here. */
export function actionOf(key: Key, model: Model, rows: number): Action | "quit" | "redraw" | undefined {
  const name = key.name ?? key.sequence ?? "";
  if (key.ctrl === true) return name === "c" ? "quit" : name === "l" ? "redraw" : undefined;
  if (name === "q") return "quit";
  if (model.view === "help") return { kind: "help" };
  if (name === "tab") return { kind: "capsule", by: key.shift === true ? -1 : 1 };
  if (/^[1-9]$/.test(name)) return { kind: "choose", index: Number(name) - 1 };
  const scroll = (by: number): Action => ({ kind: "scroll", by, rows });
  // The table is not in sight beside a large panel.
  const step = (by: number): Action =>
    model.isLarge && model.view === "capsule" ? scroll(-by) : { kind: "select", by };
  switch (name) {
    case "right":
      return { kind: "capsule", by: 1 };
    case "left":
      return { kind: "capsule", by: -1 };
    case "0":
      return { kind: "all" };
    case "up":
    case "k":
      return step(-1);
    case "down":
    case "j":
      return step(1);
    case "pageup":
      return scroll(rows - 1);
    case "pagedown":
      return scroll(1 - rows);
    case "home":
      return scroll(Number.MAX_SAFE_INTEGER);
    case "end":
      return scroll(-Number.MAX_SAFE_INTEGER);
    case "return":
    case "enter":
      return { kind: "open" };
    case "l":
      return { kind: "panel", panel: "logs" };
    case "e":
      return { kind: "panel", panel: "events" };
    case "z":
      return { kind: "large" };
    case "s":
      return { kind: "order" };
    case "?":
    case "h":
      return { kind: "help" };
    case "escape":
      return { kind: "leave" };
    default:
      return undefined;
  }
}
