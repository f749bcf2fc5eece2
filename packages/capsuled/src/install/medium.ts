/** What the installer was started from: the stick, whose partitions are copied. Nothing ever writes to it. */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Partition } from "../../../../image/disk/layout.ts";
import { CapsuleError } from "../errors.ts";
import type { BootDisk } from "../storage/substrate/disk.ts";
import { fileIn } from "../update/fat.ts";
import { type Extent, Region } from "../update/region.ts";
import type { Medium } from "./targets.ts";

export type PartitionName = Partition["name"];

export class MediumDisk implements Medium {
  readonly disk: string;
  /** The slot that runs. */
  readonly slot: "a" | "b";
  readonly #partitions: ReadonlyMap<string, Extent>;

  constructor(disk: string, slot: "a" | "b", partitions: ReadonlyMap<string, Extent>) {
    this.disk = disk;
    this.slot = slot;
    this.#partitions = partitions;
  }

  get slotBytes(): number {
    return this.extentOf(`slot_${this.slot}`).sizeBytes;
  }

  /** Throws CapsuleError when the disk has none of that name. */
  extentOf(name: PartitionName): Extent {
    const extent = this.#partitions.get(name);
    if (extent !== undefined) return extent;
    throw new CapsuleError(
      "precondition",
      `${this.disk}, from which the installer was started, has no partition ${name}: it was not written from a capsule's image.`,
      { reason: "NO_IMAGE" },
    );
  }

  region(name: PartitionName): Region {
    return new Region(this.disk, [this.extentOf(name)]);
  }

  /** A file of its boot partition. Throws CapsuleError when there is none. */
  async file(path: string): Promise<Region> {
    return await fileIn(this.region("CAPSULEBOOT"), path);
  }
}

export function damagedStick({ disk }: MediumDisk, what: string, cause?: unknown): CapsuleError {
  const message = `The stick (${disk}) is damaged: ${what}. Write the image to it again, or to another one.`;
  return new CapsuleError("precondition", message, { reason: "DAMAGED_STICK", cause });
}

const sectorBytes = 512;

export async function openMedium({ disk, slot }: BootDisk, sysBlock = "/sys/block"): Promise<MediumDisk> {
  const sys = join(sysBlock, basename(disk));
  const partitions = new Map<string, Extent>();
  for (const entry of await readdir(sys)) {
    const uevent = await readFile(join(sys, entry, "uevent"), "utf8").catch(() => "");
    const name = /^PARTNAME=(.*)$/m.exec(uevent)?.[1];
    if (name === undefined) continue;
    const [start = 0, size = 0] = await Promise.all(
      ["start", "size"].map(async (file) => Number(await readFile(join(sys, entry, file), "utf8"))),
    );
    partitions.set(name, { startBytes: start * sectorBytes, sizeBytes: size * sectorBytes });
  }
  return new MediumDisk(disk, slot, partitions);
}
