/**
 * The word on a disk whose install is not finished. It is in the last sector before the first aligned partition, which
 * nothing else of a capsule's disk uses, and goes when the disk is whole: a second try need not ask whether anybody's data
 * is lost.
 */
import { espOffset, sectorBytes } from "../../../../image/disk/layout.ts";
import { changeSector, readSector } from "../update/sector.ts";

export const markerAt = espOffset - sectorBytes;

const text = "capsule: an install that is not finished\n";

export function markerSector(): Buffer {
  const sector = Buffer.alloc(sectorBytes);
  sector.write(text, "latin1");
  return sector;
}

/** `head` is the beginning of a disk, down to the first aligned partition at least. */
export function hasMarker(head: Buffer): boolean {
  return isMarker(head.subarray(markerAt));
}

function isMarker(sector: Buffer): boolean {
  return sector.subarray(0, text.length).toString("latin1") === text;
}

/** A capsule was started from the disk: from now on it may hold somebody's data, also when the install was cut in its last step. */
export async function clearMarker(disk: string): Promise<void> {
  if (isMarker(await readSector(disk, markerAt))) await changeSector(disk, markerAt, (sector) => void sector.fill(0));
}
