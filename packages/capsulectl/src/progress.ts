import { bytes, clean, note, span } from "./output.ts";

const redrawMs = 100;
const barWidth = 30;

/** A progress bar on a terminal; elsewhere a line when the step changes. */
export class Progress {
  readonly #title: string;
  #drawnAt = 0;
  #step = "";
  #open = false;
  /** When the present step began, and what was done then: rate and remaining time are of the step. */
  #began: { readonly step: string; readonly at: number; readonly done: number } | undefined;

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
    if (this.#began?.step !== step) this.#began = { step, at: Date.now(), done };
    this.#step = step;
    this.#open = true;
    const ratio = total > 0 ? Math.min(1, done / total) : 0;
    const full = Math.round(ratio * barWidth);
    const bar =
      total > 0
        ? `[${"=".repeat(full)}${" ".repeat(barWidth - full)}] ${String(Math.round(ratio * 100)).padStart(3)}%`
        : "";
    const amount = total > 0 ? `${bytes(done)} of ${bytes(total)}` : bytes(done);
    process.stderr.write(`\r\u001b[K${clean(`${this.#title} ${bar} ${amount}${this.#speed(done, total)} ${step}`)}`);
  }

  /** Such as ", 83.1 MiB/s, 12s left". Empty until there is something to reckon with. */
  #speed(done: number, total: number): string {
    const ms = Date.now() - (this.#began?.at ?? 0);
    const rate = (done - (this.#began?.done ?? 0)) / (ms / 1000);
    if (ms < 1_000 || rate <= 0) return "";
    const left = total > done ? `, ${span(((total - done) / rate) * 1000)} left` : "";
    return `, ${bytes(rate)}/s${left}`;
  }

  end(): void {
    if (this.#open) process.stderr.write("\r\u001b[K");
    this.#open = false;
  }
}
