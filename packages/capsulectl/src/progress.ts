import { bytes, clean, note } from "./output.ts";

const redrawMs = 100;
const barWidth = 30;

/** A progress bar on a terminal; elsewhere a line when the step changes. */
export class Progress {
  readonly #title: string;
  #drawnAt = 0;
  #step = "";
  #open = false;

  constructor(title: string) {
    this.#title = title;
  }

  /** `total` 0: unknown. */
  update(done: number, total: number, step = ""): void {
    if (!process.stderr.isTTY) {
      if (step !== this.#step) note(`${this.#title}: ${step}`);
      this.#step = step;
      return;
    }
    if (Date.now() - this.#drawnAt < redrawMs && step === this.#step && done < total) return;
    this.#drawnAt = Date.now();
    this.#step = step;
    this.#open = true;
    const ratio = total > 0 ? Math.min(1, done / total) : 0;
    const full = Math.round(ratio * barWidth);
    const bar =
      total > 0
        ? `[${"=".repeat(full)}${" ".repeat(barWidth - full)}] ${String(Math.round(ratio * 100)).padStart(3)}%`
        : "";
    const amount = total > 0 ? `${bytes(done)} of ${bytes(total)}` : bytes(done);
    process.stderr.write(`\r\u001b[K${clean(`${this.#title} ${bar} ${amount} ${step}`)}`);
  }

  end(): void {
    if (this.#open) process.stderr.write("\r\u001b[K");
    this.#open = false;
  }
}
