/**
 * The terminal while the dashboard has it: another screen, no cursor, keys unread by the line editor. Whatever ends the
 * program gives it back: `leave` runs on a signal, on an error that nobody caught, and when the process exits.
 */
import { emitKeypressEvents, type Key } from "node:readline";
import { onInterrupt } from "../interrupt.ts";
import { note } from "../output.ts";
import type { Size } from "./layout.ts";
import { type Line, type Look, rendered } from "./line.ts";

/** Private modes of xterm (ctlseqs): 1049 another screen, 25 the cursor, 7 a line that is too long goes on in the next. */
const entered = "\u001b[?1049h\u001b[?25l\u001b[?7l\u001b[2J";
const left = "\u001b[0m\u001b[?7h\u001b[?25h\u001b[?1049l";

export interface TerminalEvents {
  readonly key: (key: Key) => void;
  readonly resize: () => void;
  /** Nothing can be typed any more. */
  readonly end: () => void;
}

export class Terminal {
  readonly #look: Look;
  #shown: readonly string[] = [];
  #undo: (() => void)[] = [];

  constructor(look: Look) {
    this.#look = look;
  }

  get size(): Size {
    // A terminal whose size is not known says 0.
    return { columns: process.stdout.columns || 80, rows: process.stdout.rows || 24 };
  }

  enter(events: TerminalEvents): void {
    const { stdin, stdout } = process;
    const leave = (): void => this.leave();
    const crash = (error: unknown): void => {
      leave();
      note(`capsulectl: the dashboard failed: ${String(error)}. This is a fault of capsulectl.`);
      if (process.env["CAPSULE_DEBUG"] !== undefined) console.error(error);
      process.exit(1);
    };
    const onKey = (_: unknown, key: Key): void => events.key(key);
    const onResize = (): void => {
      this.redraw();
      events.resize();
    };
    this.#undo = [
      onInterrupt(leave),
      listen(process, "uncaughtException", crash),
      listen(process, "exit", leave),
      listen(stdin, "keypress", onKey),
      listen(stdin, "end", events.end),
      listen(stdin, "error", events.end),
      listen(stdout, "resize", onResize),
    ];
    emitKeypressEvents(stdin);
    stdin.setRawMode(true);
    stdin.resume();
    stdout.write(entered);
  }

  /** May be called twice. */
  leave(): void {
    if (this.#undo.length === 0) return;
    const undo = this.#undo;
    this.#undo = [];
    try {
      process.stdout.write(left);
      process.stdin.setRawMode(false);
      process.stdin.pause();
    } catch {
      // The terminal itself is gone.
    }
    for (const one of undo) one();
  }

  /** The next paint writes everything: the screen may have been changed by others. */
  redraw(): void {
    this.#shown = [];
  }

  /** Writes the lines that are others than before. One that is late leaves out what came in between. */
  paint(lines: readonly Line[]): void {
    if (this.#undo.length === 0 || process.stdout.writableNeedDrain) return;
    const texts = lines.map((line) => rendered(line, this.#look));
    const changed = texts.flatMap((text, row) => (text === this.#shown[row] ? [] : [`\u001b[${row + 1};1H${text}`]));
    if (changed.length === 0) return;
    process.stdout.write(`${this.#shown.length === 0 ? "\u001b[2J" : ""}${changed.join("")}`);
    this.#shown = texts;
  }
}

/** What the environment says of the terminal (no-color.org; setlocale(3)). */
export function lookOf(env: Readonly<Record<string, string | undefined>>): Look {
  const locale = env["LC_ALL"] || env["LC_CTYPE"] || env["LANG"] || "";
  return { colours: (env["NO_COLOR"] ?? "") === "", unicode: /utf-?8/i.test(locale) };
}

function listen(on: NodeJS.EventEmitter, event: string, listener: (...args: never[]) => void): () => void {
  const heard = listener as (...args: unknown[]) => void;
  on.on(event, heard);
  return () => void on.off(event, heard);
}
