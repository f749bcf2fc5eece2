/**
 * Logs of workloads, in the CRI log format: `2026-11-24T00:00:00.123456789Z stdout F text`. Blocks are passed on as they
 * stand in the file; only a filter and a tail look at each line. Pure.
 */
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { LogStream } from "@capsule/api";
import type { Split } from "./read.ts";

export interface WantedLines {
  /** stdout and stderr when empty. */
  readonly streams: readonly LogStream[];
  readonly since: Timestamp | undefined;
  readonly until: Timestamp | undefined;
}

/** The time stamp has always nine digits behind the second: 30 characters and a blank. */
const streamAt = 31;
const tagAt = streamAt + "stdout ".length;
const textAt = tagAt + "F ".length;
const newline = 10;
/** The last second that the format has, 9999-12-31T23:59:59Z. */
const lastSecond = 253_402_300_799n;

/** Blocks of wanted lines. For a tail, the parts of a long line count as one. */
export function criLines(wanted: WantedLines): Split<Uint8Array> {
  const isWanted = filterOf(wanted);
  return {
    take: (block) => {
      const consumed = block.lastIndexOf(newline) + 1;
      const whole = block.subarray(0, consumed);
      const batch = isWanted === undefined ? whole : filtered(whole, isWanted);
      return { batch: batch.length === 0 ? undefined : batch, consumed };
    },
    starts: (block) => startsOf(block, isWanted),
  };
}

type Filter = (block: Buffer, start: number) => boolean;

/** Undefined when every line is wanted. */
function filterOf({ streams, since, until }: WantedLines): Filter | undefined {
  if (streams.length === 0 && since === undefined && until === undefined) return undefined;
  const first = since === undefined ? undefined : stampOf(since);
  const last = until === undefined ? undefined : stampOf(until);
  return (block, start) =>
    (streams.length === 0 || streams.includes(streamOf(block, start))) &&
    (first === undefined || compareStamps(block, start, first) >= 0) &&
    (last === undefined || compareStamps(block, start, last) <= 0);
}

/** The wanted lines of a block of whole lines, in one piece. */
function filtered(block: Buffer, isWanted: Filter): Buffer {
  const runs: Buffer[] = [];
  let runAt: number | undefined;
  for (const { start, isWhole } of linesOf(block)) {
    const wanted = isWhole && isWanted(block, start);
    if (wanted) runAt ??= start;
    else if (runAt !== undefined) {
      runs.push(block.subarray(runAt, start));
      runAt = undefined;
    }
  }
  if (runAt !== undefined) runs.push(block.subarray(runAt));
  const [only] = runs;
  return runs.length === 1 && only !== undefined ? only : Buffer.concat(runs);
}

function startsOf(block: Buffer, isWanted: Filter | undefined): number[] {
  const starts: number[] = [];
  // Set while the next line of a stream goes on with the one before.
  const within = { [LogStream.STDOUT]: false, [LogStream.STDERR]: false };
  for (const { start, isWhole } of linesOf(block)) {
    if (!isWhole) continue;
    const stream = streamOf(block, start);
    const continues = within[stream];
    within[stream] = block[start + tagAt] === 0x50;
    if (!continues && (isWanted === undefined || isWanted(block, start))) starts.push(start);
  }
  return starts;
}

/** The lines of a block; not whole are those that a power cut has torn. */
function* linesOf(block: Buffer): Generator<{ readonly start: number; readonly isWhole: boolean }> {
  for (let start = 0, end = block.indexOf(newline); end !== -1; start = end + 1, end = block.indexOf(newline, start)) {
    yield { start, isWhole: end - start >= textAt && block[start + streamAt - 1] === 0x20 };
  }
}

function streamOf(block: Buffer, start: number): LogStream.STDOUT | LogStream.STDERR {
  return block[start + streamAt + 3] === 0x6f ? LogStream.STDOUT : LogStream.STDERR;
}

/** Times in the format's own letters: they sort as the times do. */
function stampOf({ seconds, nanos }: Timestamp): Buffer {
  const second = seconds < 0n ? 0n : seconds > lastSecond ? lastSecond : seconds;
  const fraction = Math.min(Math.max(nanos, 0), 999_999_999);
  const text = new Date(Number(second) * 1000).toISOString().slice(0, 20);
  return Buffer.from(`${text}${String(fraction).padStart(9, "0")}Z`, "latin1");
}

/** Below, at or above 0 as the line's time is before, at or after the stamp. */
function compareStamps(block: Buffer, start: number, stamp: Buffer): number {
  for (let i = 0; i < stamp.length; i++) {
    const difference = (block[start + i] ?? 0) - (stamp[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
