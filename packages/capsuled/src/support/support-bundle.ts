/**
 * What somebody needs who is to help from afar, as one tar.gz. It only reads, holds one part of it in memory at a time, and
 * comes to an end whatever state the capsule is in: a part that fails, is too large or too slow is a line of errors.txt.
 */
import { setImmediate as turn } from "node:timers/promises";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { tarHeader } from "@capsule/api/update-bundle.ts";
import { collectPart, type Part, type PartList, partsOf, reasonsOf } from "./part.ts";
import type { Scrub } from "./secrets.ts";

export type BundleOutput =
  /** What is collected now, and how many files there are already. */
  | { readonly kind: "progress"; readonly file: string; readonly files: number }
  /** Of the archive. */
  | { readonly kind: "data"; readonly data: Uint8Array }
  | { readonly kind: "end"; readonly files: number; readonly sizeBytes: number; readonly faults: readonly string[] };

export interface BundleOptions {
  readonly parts: readonly (Part | PartList)[];
  readonly scrub: Scrub;
  /** Of all files together, before they are compressed. */
  readonly limitBytes: number;
  readonly timeoutMs: number;
}

const compress = promisify(gzip);
const blockBytes = 512;

/** Ends with `end`, unless the caller goes before that. */
export async function* supportBundle(
  { parts, scrub, limitBytes, timeoutMs }: BundleOptions,
  signal: AbortSignal,
): AsyncGenerator<BundleOutput> {
  const deadline = performance.now() + timeoutMs;
  const faults: string[] = [];
  let files = 0;
  let left = limitBytes;
  let sizeBytes = 0;
  const sent = (data: Uint8Array): BundleOutput => {
    sizeBytes += data.length;
    return { kind: "data", data };
  };
  for await (const part of flat(parts, faults, scrub, signal)) {
    signal.throwIfAborted();
    if (performance.now() > deadline || left <= 0) {
      const why = left <= 0 ? `the bundle is full (${limitBytes} bytes)` : `the bundle's time is up (${timeoutMs} ms)`;
      faults.push(`${part.name}: not collected: ${why}`);
      continue;
    }
    yield { kind: "progress", file: part.name, files };
    const found = await collectPart(part, signal);
    signal.throwIfAborted();
    faults.push(...found.faults.map((fault) => oneLine(`${part.name}: ${scrub(fault)}`)));
    if (found.text === undefined) continue;
    const entry = entryOf(part.name, scrub(found.text));
    left -= entry.length;
    files++;
    yield sent(await compress(entry));
    // Others have waited while it was scrubbed.
    await turn();
  }
  const last = entryOf("errors.txt", faults.map((fault) => `${fault}\n`).join(""));
  yield sent(await compress(Buffer.concat([last, Buffer.alloc(2 * blockBytes)])));
  yield { kind: "end", files: files + 1, sizeBytes, faults };
}

async function* flat(
  parts: readonly (Part | PartList)[],
  faults: string[],
  scrub: Scrub,
  signal: AbortSignal,
): AsyncGenerator<Part> {
  for (const one of parts) {
    if ("collect" in one) yield one;
    else {
      let found: readonly Part[] = [];
      try {
        found = await partsOf(one, signal);
      } catch (error) {
        faults.push(oneLine(`${one.name}: ${scrub(reasonsOf(error))}`));
      }
      yield* found;
    }
  }
}

function oneLine(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, " ").trim();
}

/** Each is a gzip member of its own: several after one another are one gzip file (RFC 1952, 2.2). */
function entryOf(name: string, text: string): Buffer {
  const bytes = Buffer.from(text);
  const padding = Buffer.alloc((blockBytes - (bytes.length % blockBytes)) % blockBytes);
  return Buffer.concat([tarHeader(name, bytes.length), bytes, padding]);
}
