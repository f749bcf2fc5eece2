/** Follows the log of one workload for the dashboard: only its newest lines matter. */
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Capsule } from "../session.ts";
import { reasonOf } from "./feed.ts";
import { LogLines } from "./log-lines.ts";
import { mostLogLines } from "./model.ts";
import type { LogMessage } from "./update.ts";

const linesAtFirst = 200;
/** Nobody reads more in a second: it is left out, so that neither side works for nothing. */
const mostBytesPerSecond = 256 * 1024;
const againMs = 1_000;

/** Until the signal. `capsule` answers undefined while there is no connection. */
export async function followLog(
  name: string,
  capsule: () => Capsule | undefined,
  send: (message: LogMessage) => void,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    const connected = capsule();
    if (connected !== undefined) {
      const note = await readLog(name, connected, send, signal).catch((error: unknown) =>
        error instanceof ConnectError && error.code === Code.NotFound ? "it is gone" : reasonOf(error, connected.host),
      );
      if (signal.aborted) return;
      send({ kind: "note", note });
    }
    await sleep(againMs, undefined, { signal }).catch(() => undefined);
  }
}

/** Answers why it does not go on; the call has ended then. */
async function readLog(
  name: string,
  capsule: Capsule,
  send: (message: LogMessage) => void,
  stopped: AbortSignal,
): Promise<string> {
  // Leaving a loop over its messages does not end a call (connect 2.2): it would go on filling its window, unread.
  const call = new AbortController();
  try {
    return await readLines(name, capsule, send, AbortSignal.any([stopped, call.signal]));
  } finally {
    call.abort();
  }
}

async function readLines(
  name: string,
  { workloads }: Capsule,
  send: (message: LogMessage) => void,
  signal: AbortSignal,
): Promise<string> {
  const lines = new LogLines();
  let second = { from: Date.now(), bytes: 0 };
  let isFirst = true;
  const request = { name, follow: true, tail: linesAtFirst };
  for await (const { lines: block } of workloads.logs(request, { signal })) {
    if (signal.aborted) break;
    // What is there comes again after each break.
    if (isFirst) send({ kind: "start" });
    isFirst = false;
    send({ kind: "lines", lines: lines.take(block).slice(-mostLogLines) });
    if (Date.now() - second.from >= 1_000) {
      second = { from: Date.now(), bytes: 0 };
      send({ kind: "note", note: "" });
    }
    second.bytes += block.length;
    if (second.bytes > mostBytesPerSecond) return "it grows faster than can be read, lines are left out";
  }
  return "it has ended";
}
