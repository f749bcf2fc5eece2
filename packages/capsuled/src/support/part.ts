/** One file of a support bundle: how it is collected, in bounds, whatever happens. */
import { messageOf } from "../errors.ts";
import { wholeLines } from "./lines.ts";

export interface Part {
  /** Path in the archive. */
  readonly name: string;
  /** Default 1 MiB; what is beyond is left out. */
  readonly limitBytes?: number;
  /** Default 10 s; what takes longer is given up. */
  readonly timeoutMs?: number;
  collect(bounds: Bounds): Promise<Collected>;
}

export interface Bounds {
  readonly limitBytes: number;
  /** Aborts when nobody waits for the part any longer. */
  readonly signal: AbortSignal;
}

/** A text, or a text with what is missing of it. */
export type Collected = string | { readonly text: string; readonly faults: readonly string[] };

/** Parts that are known only when they are looked for. A list that fails is a fault of `name`. */
export interface PartList {
  readonly name: string;
  list(): Promise<readonly Part[]>;
}

export interface PartResult {
  readonly name: string;
  /** Undefined when there is nothing. */
  readonly text: string | undefined;
  /** What is missing, and why. */
  readonly faults: readonly string[];
}

const defaultLimitBytes = 1024 ** 2;
const defaultTimeoutMs = 10_000;

/** Collects one part. Never throws, and never takes longer than its time. */
export async function collectPart(part: Part, signal: AbortSignal): Promise<PartResult> {
  const { name, limitBytes = defaultLimitBytes, timeoutMs = defaultTimeoutMs } = part;
  const timeout = AbortSignal.timeout(timeoutMs);
  const both = AbortSignal.any([signal, timeout]);
  try {
    const found = await orAborted(part.collect({ limitBytes, signal: both }), both);
    const { text, faults } = typeof found === "string" ? { text: found, faults: [] } : found;
    const kept = wholeLines(text, limitBytes);
    const cut = kept === text ? [] : [`cut: only the first ${limitBytes} bytes are kept`];
    return { name, text: kept, faults: [...faults, ...cut] };
  } catch (error) {
    const why = timeout.aborted ? `given up after ${timeoutMs} ms` : reasonsOf(error);
    return { name, text: undefined, faults: [why] };
  }
}

/** The parts of a list, within the time that one part has. */
export async function partsOf(parts: PartList, signal: AbortSignal): Promise<readonly Part[]> {
  return await orAborted(parts.list(), AbortSignal.any([signal, AbortSignal.timeout(defaultTimeoutMs)]));
}

/** An error's own words and those of what caused it. */
export function reasonsOf(error: unknown): string {
  const words = [messageOf(error)];
  for (let cause = error; cause instanceof Error && words.length < 5; ) {
    cause = cause.cause;
    if (cause !== undefined) words.push(messageOf(cause));
  }
  return [...new Set(words)].join(": ");
}

/** What is waited for may not know of the signal, or be stuck in the kernel: then it is left behind. */
async function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", abort);
    // Both may still fail, with nobody to hear it.
    for (const left of [work, promise]) left.catch(() => undefined);
  }
}
