/** The disk that the capsule was started from, and the partition PERM on it. */
import { open, readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { runTool, ToolError } from "../../tool.ts";
import { type Contents, type Partition, SubstrateError } from "./plan.ts";

/** What the initramfs found (image/initramfs/init). */
export interface BootDisk {
  /** Such as "/dev/sda". */
  readonly disk: string;
  readonly slot: "a" | "b";
}

export async function readBootDisk(path = "/run/capsule/boot.json"): Promise<BootDisk> {
  return JSON.parse(await readFile(path, "utf8")) as BootDisk;
}

/** Throws SubstrateError when there is none. */
export async function permPartition({ disk }: Pick<BootDisk, "disk">): Promise<Partition> {
  const name = basename(disk);
  const sys = join("/sys/block", name);
  const diskSectors = Number(await readFile(join(sys, "size"), "utf8"));
  for (const entry of await readdir(sys)) {
    const uevent = await readFile(join(sys, entry, "uevent"), "utf8").catch(() => "");
    if (!/^PARTNAME=PERM$/m.test(uevent)) continue;
    const [start, size] = await Promise.all(
      ["start", "size"].map(async (field) => Number(await readFile(join(sys, entry, field), "utf8"))),
    );
    const device = `/dev/${entry}`;
    // GPT's copy takes the last MiB (image/disk/layout.ts).
    const freeBehindBytes = Math.max(0, (diskSectors - ((start ?? 0) + (size ?? 0))) * 512 - 1024 * 1024);
    return { device, sizeBytes: (size ?? 0) * 512, freeBehindBytes, contents: await contentsOf(device) };
  }
  throw new SubstrateError(`${disk} has no partition named PERM: was it written from a capsule's image?`);
}

/** By low-level probing (blkid(8), libblkid): no cache, no guess by name. */
export async function contentsOf(device: string): Promise<Contents> {
  const found = await runTool(["blkid", "-p", "-o", "export", device]).catch((error: unknown) => {
    // blkid(8): 2 is "nothing found", 8 is "ambivalent": more than one signature.
    if (error instanceof ToolError && /code 2\b/.test(error.message)) return "";
    if (error instanceof ToolError && /code 8\b/.test(error.message)) return "TYPE=several";
    throw error;
  });
  const type = /^TYPE=(.*)$/m.exec(found)?.[1] ?? /^PTTYPE=(.*)$/m.exec(found)?.[1];
  if (type !== undefined) return type;
  return (await isBlank(device)) ? "blank" : "unknown";
}

const headBytes = 1024 * 1024;
/** Where pvcreate begins to write, and what it writes there before anything that blkid knows. */
const lvmMetadataAt = 4096;
const lvmMagic = Buffer.from(" LVM2 x[5A%r0N*>", "latin1");

/** Nothing in the first MiB but, maybe, what a pvcreate left that was cut by a power failure. */
async function isBlank(device: string): Promise<boolean> {
  const file = await open(device, "r");
  try {
    const head = Buffer.alloc(headBytes);
    await file.read(head, 0, headBytes, 0);
    if (head.subarray(lvmMetadataAt + 4, lvmMetadataAt + 4 + lvmMagic.length).equals(lvmMagic))
      head.fill(0, lvmMetadataAt, lvmMetadataAt + 512);
    return head.equals(Buffer.alloc(headBytes));
  } finally {
    await file.close();
  }
}

/** Moves GPT's copy to the end of the disk and PERM's end before it. The start never moves. */
export async function growPartition({ disk }: Pick<BootDisk, "disk">, { device }: Partition): Promise<void> {
  const number = /(\d+)$/.exec(device)?.[1] ?? "";
  await runTool(["sfdisk", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std", disk]);
  await runTool(["sfdisk", "--no-reread", "--no-tell-kernel", "-N", number, disk], ", +\n");
  const table = JSON.parse(await runTool(["sfdisk", "--json", disk])) as {
    partitiontable: { partitions: { node: string; size: number }[] };
  };
  const sectors = table.partitiontable.partitions.find(({ node }) => node === device)?.size;
  if (sectors === undefined) throw new SubstrateError(`${device} is no more in the partition table of ${disk}`);
  // The kernel takes a new size of one partition while others of the disk are mounted; a whole new table it does not.
  // (partx --update would remove the partition and add it again, without its name.)
  await runTool(["resizepart", disk, number, String(sectors)]);
}
