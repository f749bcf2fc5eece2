/** Bytes from a stream of small pieces into a pipe. */
import type { Writable } from "node:stream";
import { finished } from "node:stream/promises";

/** Written at once: every write wakes the process at the other end. */
const gatherBytes = 128 * 1024;

/**
 * Writes all and ends the pipe; resolves when everything was taken. Waits while the reader is behind. Throws what the
 * source throws, the pipe's own error (EPIPE when its reader is gone), and the reason of the signal's abort.
 */
export async function writeAll(chunks: AsyncIterable<Uint8Array>, pipe: Writable, signal?: AbortSignal): Promise<void> {
  const done = finished(pipe, { readable: false, ...(signal === undefined ? {} : { signal }) });
  const sending = send(chunks, pipe);
  // A pipe that fails ends it, though the source may have nothing for a long time.
  await Promise.race([sending, done]).finally(() => {
    for (const one of [sending, done]) one.catch(() => undefined);
  });
  await done;
}

async function send(chunks: AsyncIterable<Uint8Array>, pipe: Writable): Promise<void> {
  let gathered = 0;
  pipe.cork();
  for await (const chunk of chunks) {
    if (pipe.destroyed) return;
    pipe.write(chunk);
    gathered += chunk.length;
    if (gathered < gatherBytes) continue;
    gathered = 0;
    pipe.uncork();
    if (pipe.writableNeedDrain) await drained(pipe);
    pipe.cork();
  }
  pipe.uncork();
  pipe.end();
}

/** Resolves when a pipe takes more, or is closed. */
export async function drained(pipe: Writable): Promise<void> {
  await new Promise<void>((resolve) => {
    const settle = (): void => {
      pipe.off("drain", settle).off("close", settle);
      resolve();
    };
    pipe.on("drain", settle).on("close", settle);
  });
}
