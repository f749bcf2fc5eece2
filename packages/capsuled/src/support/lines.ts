/** Texts in bounds. A bound is between lines: half of a secret would not be recognised. */
import { type LogPlace, openLogFiles } from "../logs/files.ts";

const newline = 10;

/** The first lines of a text that fit into `limitBytes` of UTF-8. */
export function wholeLines(text: string, limitBytes: number): string {
  if (Buffer.byteLength(text) <= limitBytes) return text;
  const bytes = Buffer.from(text);
  return bytes.toString("utf8", 0, bytes.lastIndexOf(newline, limitBytes - 1) + 1);
}

/** The newest lines of a log that is rotated, as many as fit into `limitBytes`. Empty without a log. */
export async function newestLines(
  place: LogPlace,
  limitBytes: number,
): Promise<{ readonly text: string; readonly faults: readonly string[] }> {
  const files = await openLogFiles(place);
  const blocks: Buffer[] = [];
  let left = limitBytes;
  let isCut = false;
  try {
    for (const { handle } of files.reverse()) {
      const { size } = await handle.stat();
      const length = Math.min(size, left);
      const block = Buffer.alloc(length);
      // It is of the size that it had: what is written meanwhile is newer.
      const { bytesRead } = await handle.read(block, 0, length, size - length);
      blocks.unshift(block.subarray(0, bytesRead));
      left -= length;
      isCut ||= length < size;
    }
  } finally {
    for (const { handle } of files) await handle.close();
  }
  const all = Buffer.concat(blocks);
  if (!isCut) return { text: all.toString("utf8"), faults: [] };
  const first = all.indexOf(newline);
  return {
    text: first === -1 ? "" : all.toString("utf8", first + 1),
    faults: [`cut: only the newest ${limitBytes} bytes are kept`],
  };
}
