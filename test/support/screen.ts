/** A program in a real pseudo-terminal, and what a person would see on its screen. */
import { setTimeout as sleep } from "node:timers/promises";
import { type IPty, spawn } from "@lydell/node-pty";
import headless from "@xterm/headless";

export interface ScreenOptions {
  readonly columns: number;
  readonly rows: number;
  readonly env: Readonly<Record<string, string>>;
}

export class Screen {
  readonly pid: number;
  /** All that the program wrote, as it was written. */
  written = "";
  /** The exit code, or 128 and the signal, as a shell has it. */
  readonly ended: Promise<number>;
  readonly #pty: IPty;
  readonly #terminal: InstanceType<typeof headless.Terminal>;

  constructor(program: string, args: readonly string[], { columns, rows, env }: ScreenOptions) {
    this.#terminal = new headless.Terminal({ cols: columns, rows, allowProposedApi: true });
    this.#pty = spawn(program, [...args], {
      name: env["TERM"] ?? "xterm-256color",
      cols: columns,
      rows,
      env: { ...env },
    });
    this.pid = this.#pty.pid;
    this.#pty.onData((data) => {
      this.written += data;
      this.#terminal.write(data);
    });
    this.ended = new Promise((resolve) => {
      this.#pty.onExit(({ exitCode, signal }) => resolve(signal ? 128 + signal : exitCode));
    });
  }

  /** The rows as they stand on the screen now. */
  get rows(): string[] {
    const { active } = this.#terminal.buffer;
    return Array.from(
      { length: this.#terminal.rows },
      (_, y) => active.getLine(active.baseY + y)?.translateToString(true) ?? "",
    );
  }

  get text(): string {
    return this.rows.join("\n");
  }

  /** Whether the program has the other screen of the terminal, that which is gone when it ends. */
  get isAlternate(): boolean {
    return this.#terminal.buffer.active.type === "alternate";
  }

  /** Whether a line that is too long goes on in the next. */
  get wraps(): boolean {
    return this.#terminal.modes.wraparoundMode;
  }

  type(keys: string): void {
    this.#pty.write(keys);
  }

  resize(columns: number, rows: number): void {
    this.#terminal.resize(columns, rows);
    this.#pty.resize(columns, rows);
  }

  /** Polls until the text of the screen fits. Throws with the screen when it does not in time. */
  async until(pattern: RegExp, what: string, timeoutMs = 20_000): Promise<string> {
    for (const deadline = Date.now() + timeoutMs; ; await sleep(50)) {
      if (pattern.test(this.text)) return this.text;
      if (Date.now() > deadline) throw new Error(`not ${what} within ${timeoutMs} ms; on the screen:\n${this.text}`);
    }
  }

  /** As when the connection of a terminal is lost: nobody has its other end any more. */
  kill(): void {
    this.#pty.kill("SIGKILL");
  }
}
