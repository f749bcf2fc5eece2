/** The console of a machine, as the jail writes it down: what it says of a boot or an end that went wrong. */
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import type { LogPlace } from "../../logs/files.ts";

/** How much of it is told. */
const toldLines = 5;
const toldBytes = 4_096;
/** `2026-01-31T12:00:00.123456789Z stdout F text`; a time in milliseconds is the first part of it. */
const form = /^(\S{23})\S* \S+ [FP] (.*)$/;

/** Its last lines that are not empty, without what a terminal would obey. Only those after `since`, when that is given. */
export async function consoleTail(place: LogPlace, since = new Date(0)): Promise<string[]> {
  const first = since.toISOString().slice(0, -1);
  return (await endOf(join(place.dir, place.name)))
    .split("\n")
    .flatMap((line) => {
      const [, time = "", text = ""] = form.exec(line) ?? [];
      return time >= first ? [text.replaceAll(/\p{Cc}/gu, "").trimEnd()] : [];
    })
    .filter((text) => text !== "")
    .slice(-toldLines);
}

/** When something was written to it the last time, in milliseconds since 1970; 0 for never. */
export async function lastWritten({ dir, name }: LogPlace): Promise<number> {
  return await stat(join(dir, name)).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0,
  );
}

async function endOf(path: string): Promise<string> {
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return "";
  try {
    const { size } = await file.stat();
    const length = Math.min(size, toldBytes);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString("utf8");
  } finally {
    await file.close();
  }
}
