/** Reads a log: all of it, its end, or as it grows; across rotations and restarts of whoever writes or reads. */
import { watch } from "node:fs";
import { stat } from "node:fs/promises";
import { type LogFile, type LogPlace, openLogFiles, openNextLogFile } from "./files.ts";

/** How the lines of a log are told apart. */
export interface Split<Batch> {
  /**
   * The wanted lines of a block that begins at a line's start, undefined when there is none. `consumed` bytes were whole
   * lines. The batch may hold parts of the block.
   */
  take(block: Buffer): { readonly batch: Batch | undefined; readonly consumed: number };
  /** Offsets of the wanted lines of such a block that count for a tail. */
  starts(block: Buffer): readonly number[];
}

export interface ReadOptions {
  readonly follow: boolean;
  /** Only the last this many lines; undefined for all. */
  readonly tail: number | undefined;
}

const chunkBytes = 256 * 1024;
/** A look even when nothing was told: a watch may miss what happens while it is set up. In milliseconds. */
const pollMs = 1_000;

/**
 * Batches of lines, oldest first. With `follow` it ends when `signal` aborts or the directory goes. What a batch holds is
 * good until the next one is asked for: the buffer below it is filled again.
 */
export async function* readLog<Batch>(
  place: LogPlace,
  split: Split<Batch>,
  options: ReadOptions,
  signal: AbortSignal,
): AsyncGenerator<Batch> {
  const growth = options.follow ? new Growth(place.dir, signal) : undefined;
  let files = await openLogFiles(place);
  try {
    // Without `follow` the log is what it was when it was asked for: a tail of one line is one, however fast it grows.
    const sizes = await Promise.all(files.map(async ({ handle }) => (await handle.stat()).size));
    let start =
      options.tail === undefined ? { file: 0, offset: 0 } : await tailStart(files, sizes, options.tail, split);
    for (;;) {
      let last: { file: LogFile; offset: number } | undefined;
      for (const [i, file] of files.entries()) {
        if (i < start.file) continue;
        const end = options.follow ? Number.POSITIVE_INFINITY : (sizes[i] ?? 0);
        const offset = yield* readFile(file, i === start.file ? start.offset : 0, end, split, signal);
        last = { file, offset };
      }
      if (growth === undefined || signal.aborted) return;
      const next = yield* followFrom(place, last, split, growth, signal);
      if (next === undefined) return;
      for (const file of files) await file.handle.close();
      files = [next];
      start = { file: 0, offset: 0 };
    }
  } finally {
    growth?.close();
    for (const file of files) await file.handle.close();
  }
}

/** Reads on in the youngest file until there is a younger one, which it returns; undefined at the end of all. */
async function* followFrom<Batch>(
  place: LogPlace,
  last: { readonly file: LogFile; offset: number } | undefined,
  split: Split<Batch>,
  growth: Growth,
  signal: AbortSignal,
): AsyncGenerator<Batch, LogFile | undefined> {
  for (;;) {
    await growth.wait();
    if (signal.aborted) return undefined;
    const next = await openNextLogFile(place, last?.file.inode ?? 0);
    // What was written before the rotation comes first.
    if (last !== undefined)
      last.offset = yield* readFile(last.file, last.offset, Number.POSITIVE_INFINITY, split, signal);
    if (next !== undefined) return next;
    if (!(await exists(place.dir))) return undefined;
  }
}

/** Yields the lines from an offset to `end`, or of the file; returns the offset behind the last whole line. */
async function* readFile<Batch>(
  { handle }: LogFile,
  from: number,
  end: number,
  split: Split<Batch>,
  signal: AbortSignal,
): AsyncGenerator<Batch, number> {
  let offset = from;
  const buffer = Buffer.allocUnsafe(chunkBytes);
  while (!signal.aborted) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, end - offset), offset);
    if (bytesRead === 0) return offset;
    const { batch, consumed } = split.take(buffer.subarray(0, bytesRead));
    // The writer cuts lines at 16 KiB, so a chunk without an end is one that is being written.
    if (consumed === 0) return offset;
    offset += consumed;
    if (batch !== undefined) yield batch;
  }
  return offset;
}

/** Where the last `count` wanted lines begin. */
async function tailStart(
  files: readonly LogFile[],
  sizes: readonly number[],
  count: number,
  split: Split<unknown>,
): Promise<{ file: number; offset: number }> {
  let missing = count;
  for (let i = files.length - 1; i >= 0; i--) {
    const { handle } = files[i] as LogFile;
    let end = sizes[i] ?? 0;
    let rest: Buffer = Buffer.alloc(0);
    if (missing === 0) return { file: i, offset: end };
    while (end > 0) {
      const size = Math.min(chunkBytes, end);
      const chunk = Buffer.allocUnsafe(size);
      await handle.read(chunk, 0, size, end - size);
      end -= size;
      const block = Buffer.concat([chunk, rest]);
      // All but what may be the end of a line that begins further up.
      const first = end === 0 ? 0 : block.indexOf(10) + 1;
      const starts = split.starts(block.subarray(first));
      if (starts.length >= missing) return { file: i, offset: end + first + (starts[starts.length - missing] ?? 0) };
      missing -= starts.length;
      rest = Buffer.from(block.subarray(0, first));
    }
  }
  return { file: 0, offset: 0 };
}

async function exists(dir: string): Promise<boolean> {
  return await stat(dir).then(
    () => true,
    () => false,
  );
}

/** Tells when something in a directory may have grown. */
class Growth {
  #changed = true;
  #wake: () => void = () => undefined;
  readonly #close: () => void;

  constructor(dir: string, signal: AbortSignal) {
    const tell = (): void => {
      this.#changed = true;
      this.#wake();
    };
    const poll = setInterval(tell, pollMs);
    const watcher = openWatch(dir, tell);
    signal.addEventListener("abort", tell, { once: true });
    this.#close = () => {
      clearInterval(poll);
      watcher?.close();
      signal.removeEventListener("abort", tell);
    };
  }

  async wait(): Promise<void> {
    if (!this.#changed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#changed = false;
  }

  close(): void {
    this.#close();
  }
}

/** A workload that has not started yet has no directory: the poll serves then. */
function openWatch(dir: string, tell: () => void): { close(): void } | undefined {
  try {
    const watcher = watch(dir, tell);
    watcher.on("error", () => watcher.close());
    return watcher;
  } catch {
    return undefined;
  }
}
