/** Single sectors of a disk: when the power goes, each is as before or as it was to be. */
import { sectorBytes } from "../../../../image/disk/layout.ts";
import { Region } from "./region.ts";

export async function readSector(path: string, atBytes: number): Promise<Buffer> {
  return await regionAt(path, atBytes).read(0, sectorBytes);
}

/** Changed in place, and durable. */
export async function changeSector(path: string, atBytes: number, change: (sector: Buffer) => void): Promise<void> {
  const opened = await regionAt(path, atBytes).open("write");
  try {
    const sector = await opened.read(0, sectorBytes);
    change(sector);
    await opened.write(sector, 0);
    await opened.sync();
  } finally {
    await opened.close();
  }
}

function regionAt(path: string, startBytes: number): Region {
  return new Region(path, [{ startBytes, sizeBytes: sectorBytes }]);
}
