/**
 * Finds where a file lies on a FAT32 filesystem (Microsoft, "FAT: General Overview of On-Disk Format", 1.03). The boot
 * partition is never mounted: the files that change were laid out by the image builder at their full size, and their blocks
 * are overwritten in place. So no power cut can damage the filesystem that firmware and boot loader must read.
 */
import { CapsuleError } from "../errors.ts";
import { type Extent, Region } from "./region.ts";

/** Reads bytes of the filesystem. */
export type ReadAt = (atBytes: number, sizeBytes: number) => Promise<Buffer>;

const entryBytes = 32;
const longNameAttributes = 0x0f;
const labelAttribute = 0x08;
const directoryAttribute = 0x10;
/** Of a directory; more is a circle. */
const mostClusters = 1 << 20;

interface Geometry {
  readonly clusterBytes: number;
  readonly tableAt: number;
  readonly tableBytes: number;
  readonly dataAt: number;
  readonly rootCluster: number;
}

/** The blocks of a file, cut to its size, in the order of the file. `path` has short names, such as "/capsule/grubenv". */
export async function locate(read: ReadAt, path: string): Promise<Extent[]> {
  const geometry = geometryOf(await read(0, 512));
  let cluster = geometry.rootCluster;
  let sizeBytes = 0;
  for (const [depth, name] of path.split("/").slice(1).entries()) {
    if (depth > 0 && sizeBytes > 0) throw damaged(`${path} leads through a file`);
    const entry = await find(read, geometry, cluster, shortName(name));
    if (entry === undefined)
      throw new CapsuleError(
        "precondition",
        `The boot partition has no ${path}: this disk was not laid out for updates.`,
        {
          reason: "NO_UPDATE_LAYOUT",
        },
      );
    [cluster, sizeBytes] = [entry.cluster, entry.isDirectory ? 0 : entry.sizeBytes];
  }
  return joined(await chainOf(read, geometry, cluster), geometry, sizeBytes);
}

/**
 * A file of the filesystem on a partition, as a place of its disk; or the same file where that partition was, or will be, copied
 * to. Throws CapsuleError as `locate` does.
 */
export async function fileIn(partition: Region, path: string, copy = partition): Promise<Region> {
  const opened = await partition.open("read");
  try {
    const extents = await locate((at, size) => opened.read(at, size), path);
    return new Region(
      copy.device,
      extents.flatMap(({ startBytes, sizeBytes }) => copy.parts(startBytes, sizeBytes)),
    );
  } finally {
    await opened.close();
  }
}

function geometryOf(boot: Buffer): Geometry {
  const sectorBytes = boot.readUInt16LE(11);
  const perCluster = boot.readUInt8(13);
  const tableSectors = boot.readUInt32LE(36);
  const isFat32 = boot.readUInt16LE(510) === 0xaa55 && boot.readUInt16LE(17) === 0 && tableSectors > 0;
  if (!isFat32 || sectorBytes < 512 || perCluster === 0) throw damaged("its first sector is not that of a FAT32");
  const tableAt = boot.readUInt16LE(14) * sectorBytes;
  const tableBytes = tableSectors * sectorBytes;
  return {
    clusterBytes: perCluster * sectorBytes,
    tableAt,
    tableBytes,
    dataAt: tableAt + boot.readUInt8(16) * tableBytes,
    rootCluster: boot.readUInt32LE(44),
  };
}

async function chainOf(read: ReadAt, { tableAt, tableBytes }: Geometry, first: number): Promise<number[]> {
  const table = await read(tableAt, tableBytes);
  const chain: number[] = [];
  for (let cluster = first; cluster < 0x0ffffff8; cluster = table.readUInt32LE(cluster * 4) & 0x0fffffff) {
    if (cluster < 2 || cluster * 4 >= tableBytes || chain.length > mostClusters) throw damaged("a chain leads nowhere");
    chain.push(cluster);
  }
  return chain;
}

async function find(
  read: ReadAt,
  geometry: Geometry,
  directory: number,
  name: string,
): Promise<{ cluster: number; sizeBytes: number; isDirectory: boolean } | undefined> {
  for (const cluster of await chainOf(read, geometry, directory)) {
    const data = await read(geometry.dataAt + (cluster - 2) * geometry.clusterBytes, geometry.clusterBytes);
    for (let at = 0; at < data.length; at += entryBytes) {
      if (data[at] === 0) return undefined;
      const attributes = data.readUInt8(at + 11);
      if (attributes === longNameAttributes || (attributes & labelAttribute) !== 0) continue;
      if (data.toString("latin1", at, at + 11) !== name) continue;
      return {
        cluster: data.readUInt16LE(at + 20) * 65_536 + data.readUInt16LE(at + 26),
        sizeBytes: data.readUInt32LE(at + 28),
        isDirectory: (attributes & directoryAttribute) !== 0,
      };
    }
  }
  return undefined;
}

/** Neighbouring clusters as one. */
function joined(chain: readonly number[], { dataAt, clusterBytes }: Geometry, sizeBytes: number): Extent[] {
  const extents: Extent[] = [];
  let left = sizeBytes;
  for (const cluster of chain) {
    const startBytes = dataAt + (cluster - 2) * clusterBytes;
    const size = Math.min(left, clusterBytes);
    const last = extents.at(-1);
    if (last !== undefined && last.startBytes + last.sizeBytes === startBytes)
      extents[extents.length - 1] = { startBytes: last.startBytes, sizeBytes: last.sizeBytes + size };
    else if (size > 0) extents.push({ startBytes, sizeBytes: size });
    left -= size;
  }
  if (left > 0) throw damaged("a file has fewer blocks than its size needs");
  return extents;
}

function shortName(name: string): string {
  const [base = "", extension = ""] = name.toUpperCase().split(".");
  return base.padEnd(8) + extension.padEnd(3);
}

function damaged(what: string): CapsuleError {
  return new CapsuleError(
    "internal",
    `The boot partition cannot be read: ${what}. Nothing was changed; write the disk anew from an image when it no longer starts.`,
  );
}
