import { setTimeout as sleep } from "node:timers/promises";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import { CapsuleError } from "../errors.ts";

/** An interval of a request in milliseconds; undefined for "once". Throws `invalid` below a second. */
export function intervalMs(interval: Duration | undefined): number | undefined {
  if (interval === undefined) return undefined;
  const ms = durationMs(interval);
  if (ms >= 1_000 && ms <= 86_400_000) return ms;
  const description = "an interval is between a second and a day";
  throw new CapsuleError("invalid", `interval: ${description}`, { violations: [{ path: "interval", description }] });
}

/** Once, or at every interval until the signal aborts. */
export async function* ticks(everyMs: number | undefined, signal: AbortSignal): AsyncGenerator<void> {
  yield;
  while (everyMs !== undefined && !signal.aborted) {
    await sleep(everyMs, undefined, { signal });
    yield;
  }
}
