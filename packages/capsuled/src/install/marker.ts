/**
 * The word on a disk whose install is not finished. It is in the last sector before the first aligned partition, which
 * nothing else of a capsule's disk uses, and goes when the disk is whole: a second try need not ask whether anybody's data
 * is lost.
 */
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
