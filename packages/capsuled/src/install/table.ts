/** Takes a disk over: what was on it goes, and it has the partitions of a capsule, of which nothing starts yet. */
import { randomUUID } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { layoutOf, sfdiskScript } from "../../../../image/disk/layout.ts";
import { runTool } from "../tool.ts";
import { markerAt, markerSector } from "./marker.ts";
import type { TargetDisk } from "./pieces.ts";

const endBytes = 1024 * 1024;
const tableTimeoutMs = 60_000;

/**
 * Boot code of a disk that does not start: "int 18h", by which BIOS goes on to the next disk (then it stands still, should
 * that return). Zeros there would be executed, and the machine would hang.
 */
export const notBootable = Buffer.from([0xcd, 0x18, 0xf4, 0xeb, 0xfd]);

/**
 * From here on the disk is one of an install that is not finished (marker.ts), and starts nothing: no boot code, no
 * signature of a capsule's disk, no filesystem on its boot partition. Throws ToolError, such as when it is in use.
 */
export async function takeOver({ path, sizeBytes }: TargetDisk, slotBytes: number): Promise<void> {
  const layout = layoutOf(sizeBytes, slotBytes);
  const file = await open(path, "r+");
  try {
    // GPT's copy first: a cut between the two leaves what was there, which starts as it did. Some firmware would start from
    // a copy whose original is gone.
    await clear(file, sizeBytes - endBytes);
    await file.sync();
    const head = Buffer.alloc(endBytes);
    markerSector().copy(head, markerAt);
    await writeAt(file, head, 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await runTool(
    ["sfdisk", "--quiet", path],
    sfdiskScript(layout, randomUUID(), () => randomUUID()),
    tableTimeoutMs,
  );
  const again = await open(path, "r+");
  try {
    await writeAt(again, notBootable, 0);
    // Nothing of former filesystems shows in the new partitions: theirs begin, and some end, where these do.
    for (const { name, startBytes, sizeBytes: size } of layout) {
      if (name === "BIOSBOOT") continue;
      await clear(again, startBytes);
      await clear(again, startBytes + size - endBytes);
    }
    await again.sync();
  } finally {
    await again.close();
  }
}

async function clear(file: FileHandle, atBytes: number): Promise<void> {
  await writeAt(file, Buffer.alloc(endBytes), atBytes);
}

async function writeAt(file: FileHandle, data: Buffer, atBytes: number): Promise<void> {
  for (let written = 0; written < data.length; ) {
    const { bytesWritten } = await file.write(data, written, data.length - written, atBytes + written);
    written += bytesWritten;
  }
}
