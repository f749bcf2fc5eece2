/**
 * The word on a disk whose install is not finished. It is in the last sector before the first aligned partition, which
 * nothing else of a capsule's disk uses, and goes when the disk is whole: a second try need not ask whether anybody's data
 * is lost.
 */
import { open } from "node:fs/promises";
import { espOffset, sectorBytes } from "../../../../image/disk/layout.ts";

export const markerAt = espOffset - sectorBytes;

const text = "capsule: an install that is not finished\n";

export function markerSector(): Buffer {
  const sector = Buffer.alloc(sectorBytes);
  sector.write(text, "latin1");
  return sector;
}

/** `head` is the beginning of a disk, down to the first aligned partition at least. */
export function hasMarker(head: Buffer): boolean {
  return head.subarray(markerAt, markerAt + text.length).toString("latin1") === text;
}

/** A capsule was started from the disk: from now on it may hold somebody's data, also when the install was cut in its last step. */
export async function clearMarker(disk: string): Promise<void> {
  const file = await open(disk, "r+");
  try {
    const head = Buffer.alloc(espOffset);
    await file.read(head, 0, head.length, 0);
    if (!hasMarker(head)) return;
    await file.write(Buffer.alloc(sectorBytes), 0, sectorBytes, markerAt);
    await file.sync();
  } finally {
    await file.close();
  }
}
