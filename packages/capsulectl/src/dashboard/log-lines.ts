/** Lines of a workload's log for the dashboard, from blocks of them that may be cut anywhere (LogsResponse in workload.proto). */

const line = /^\S{20,40} (stdout|stderr) ([FP]) (.*)$/s;
/** A longer line is not shown whole anyway; the parts of one have at most 16 KiB each. */
const mostCharacters = 1_000;
const mostRest = 64 * 1024;

export class LogLines {
  #rest: Buffer = Buffer.alloc(0);
  /** What has come of the line that is still being written, by stream. */
  readonly #begun: Record<string, string> = {};

  /** The lines that became whole, both streams in the order in which they were written. */
  take(block: Uint8Array): string[] {
    const all = Buffer.concat([this.#rest, block]);
    const end = all.lastIndexOf(10) + 1;
    this.#rest = Buffer.from(all.subarray(Math.max(end, all.length - mostRest)));
    const lines: string[] = [];
    for (const text of all.toString("utf8", 0, end).split("\n")) {
      const [, stream = "", tag, part = ""] = line.exec(text) ?? [];
      if (tag === undefined) continue; // the end, or torn by a power cut
      const whole = `${this.#begun[stream] ?? ""}${part}`.slice(0, mostCharacters);
      this.#begun[stream] = tag === "P" ? whole : "";
      if (tag === "F") lines.push(whole);
    }
    return lines;
  }
}
