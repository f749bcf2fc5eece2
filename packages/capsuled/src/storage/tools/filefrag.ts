/** Extents of a file (filefrag(8) of e2fsprogs, by FIEMAP): which of its blocks no other file has. */
import { runTool } from "../../tool.ts";

const blockBytes = 4096;

/** Bytes of a file that it shares with no other. */
export async function exclusiveBytesOf(path: string): Promise<number> {
  return parseExclusive(await runTool(["filefrag", "-v", "-b4096", path], "", 120_000));
}

/** Lines such as `   0:        0..    1023:      15360..     16383:   1024:             shared`. */
export function parseExclusive(text: string): number {
  let blocks = 0;
  for (const line of text.split("\n")) {
    const [, length, flags = ""] =
      /^\s*[0-9]+:\s+[0-9]+\.\.\s*[0-9]+:\s+[0-9]+\.\.\s*[0-9]+:\s+([0-9]+):(.*)$/.exec(line) ?? [];
    if (length !== undefined && !/\bshared\b/.test(flags)) blocks += Number(length);
  }
  return blocks * blockBytes;
}
