/** Lines of the CRI log format: `2026-11-24T00:00:00.123456789Z stdout F text`. Pure. */
import { type LogLine, LogStream } from "@capsule/api";
import type { Split } from "./read.ts";

export interface WantedLines {
  /** stdout and stderr when empty. */
  readonly streams: readonly LogStream[];
  readonly since: Date | undefined;
  readonly until: Date | undefined;
}

/** The time stamp has always nine digits behind the second: 30 characters and a blank. */
const streamAt = 31;
const textAt = streamAt + "stdout F ".length;
const newline = 10;

/** Splits blocks into the wanted lines. For a tail, the parts of a long line count as one. */
export function criLines(wanted: WantedLines): Split<LogLine> {
  return (block) => splitLines(block, wanted);
}

function splitLines(block: Buffer, { streams, since, until }: WantedLines): ReturnType<Split<LogLine>> {
  const lines: LogLine[] = [];
  const starts: number[] = [];
  const clock = new Clock();
  const sinceMs = since?.getTime();
  const untilMs = until?.getTime();
  // Set while the next line of a stream goes on with the one before.
  const within = { [LogStream.STDOUT]: false, [LogStream.STDERR]: false };
  let at = 0;
  for (;;) {
    const end = block.indexOf(newline, at);
    if (end === -1) return { lines, starts, consumed: at };
    const start = at;
    at = end + 1;
    if (end - start < textAt - 1) continue; // torn by a power cut
    const stream = block[start + streamAt + 3] === 0x6f ? LogStream.STDOUT : LogStream.STDERR;
    const partial = block[start + textAt - 2] === 0x50;
    const continues = within[stream];
    within[stream] = partial;
    if (streams.length > 0 && !streams.includes(stream)) continue;
    const time = clock.read(block, start);
    if (time === undefined) continue;
    if (sinceMs !== undefined && time.ms < sinceMs) continue;
    if (untilMs !== undefined && time.ms > untilMs) continue;
    if (!continues) starts.push(start);
    lines.push({
      $typeName: "capsule.v1.LogLine",
      time: { $typeName: "google.protobuf.Timestamp", seconds: time.seconds, nanos: time.nanos },
      stream,
      text: block.subarray(start + textAt, end),
      partial,
    });
  }
}

/** Reads time stamps; parses the second only when it is another one than before. */
class Clock {
  #text = "";
  #ms = 0;
  #seconds = 0n;

  read(
    block: Buffer,
    at: number,
  ): { readonly ms: number; readonly seconds: bigint; readonly nanos: number } | undefined {
    const text = block.toString("latin1", at, at + 19);
    if (text !== this.#text) {
      const ms = Date.parse(`${text}Z`);
      if (Number.isNaN(ms)) return undefined;
      this.#text = text;
      this.#ms = ms;
      this.#seconds = BigInt(ms / 1000);
    }
    let nanos = 0;
    for (let i = at + 20; i < at + 29; i++) nanos = nanos * 10 + ((block[i] ?? 48) - 48);
    if (!(nanos >= 0 && nanos < 1e9)) return undefined;
    return { ms: this.#ms + nanos / 1e6, seconds: this.#seconds, nanos };
  }
}
