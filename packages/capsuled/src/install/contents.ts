/** What is on a disk. Everything here only reads. */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { diskSignature } from "../../../../image/disk/layout.ts";
import { runTool, ToolError } from "../tool.ts";
import type { Disk, DiskPartition } from "./disks.ts";
import { hasMarker } from "./marker.ts";

/** What blkid(8) finds by looking itself; all empty when nothing that it knows is there. */
export interface Format {
  /** Such as "ext4", "LVM2_member", "crypto_LUKS". */
  readonly type: string;
  readonly label: string;
  /** Of a whole disk: "gpt", "dos". */
  readonly table: string;
}

export interface Contents {
  readonly kind: "blank" | "unfinished" | "capsule" | "data";
  /** For people. */
  readonly description: string;
}

/** What was read of a disk to tell what is on it. */
export interface Evidence {
  /** Its first and its last MiB. */
  readonly head: Buffer;
  readonly tail: Buffer;
  readonly whole: Format;
  readonly partitions: readonly (DiskPartition & { readonly format: Format })[];
}

const endBytes = 1024 * 1024;
const signatureAt = 440;
const mostTold = 6;

export async function readEvidence(disk: Disk): Promise<Evidence> {
  const file = await open(disk.path, "r");
  try {
    return {
      head: await readAt(file, 0),
      tail: await readAt(file, Math.max(0, disk.sizeBytes - endBytes)),
      whole: await formatOf(disk.path),
      partitions: await Promise.all(
        disk.partitions.map(async (partition) => ({ ...partition, format: await formatOf(partition.path) })),
      ),
    };
  } finally {
    await file.close();
  }
}

/** Pure. */
export function contentsOf({ head, tail, whole, partitions }: Evidence): Contents {
  if (hasMarker(head)) return { kind: "unfinished", description: "an install that was cut off" };
  if (isCapsule(head, partitions)) return { kind: "capsule", description: "a capsule" };
  if (partitions.length > 0) {
    const told = partitions.slice(0, mostTold).map(({ name, format }) => formatText(format, name));
    if (partitions.length > mostTold) told.push("…");
    const count = `${partitions.length} partition${partitions.length === 1 ? "" : "s"}`;
    return { kind: "data", description: `${count}: ${told.join(", ")}` };
  }
  if (whole.type !== "") return { kind: "data", description: formatText(whole, "") };
  if (whole.table !== "") return { kind: "data", description: `an empty partition table (${whole.table})` };
  const isZero = (data: Buffer): boolean => data.equals(Buffer.alloc(data.length));
  if (isZero(head) && isZero(tail)) return { kind: "blank", description: "blank" };
  return { kind: "data", description: "data of no known format" };
}

/** Whether somebody has it open for himself: a mount, an array, another program. */
export async function isBusy(path: string): Promise<boolean> {
  try {
    await (await open(path, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") return true;
    throw error;
  }
}

/** One that starts, or has started; the partitions alone are those of the stick's image too. */
function isCapsule(head: Buffer, partitions: readonly DiskPartition[]): boolean {
  const signature = head.readUInt32LE(signatureAt).toString(16).padStart(8, "0");
  return signature === diskSignature && partitions.some(({ name }) => name === "PERM");
}

function formatText({ type, label }: Format, name: string): string {
  const what = type === "" ? "unknown" : type;
  const called = label === "" ? name : label;
  return called === "" ? what : `${what} "${called}"`;
}

async function formatOf(path: string): Promise<Format> {
  const found = await runTool(["blkid", "-p", "-o", "export", path]).catch((error: unknown) => {
    // blkid(8): 2 is "nothing found", 8 is "ambivalent": more than one.
    if (error instanceof ToolError && error.code === 2) return "";
    if (error instanceof ToolError && error.code === 8) return "TYPE=several formats";
    throw error;
  });
  const value = (key: string): string => new RegExp(`^${key}=(.*)$`, "m").exec(found)?.[1] ?? "";
  // Blanks and the like are escaped (blkid(8), "export").
  const plain = (text: string): string => text.replaceAll(/\\(.)/g, "$1");
  return { type: plain(value("TYPE")), label: plain(value("LABEL")), table: value("PTTYPE") };
}

async function readAt(file: FileHandle, atBytes: number): Promise<Buffer> {
  const data = Buffer.alloc(endBytes);
  let read = 0;
  while (read < endBytes) {
    const { bytesRead } = await file.read(data, read, endBytes - read, atBytes + read);
    if (bytesRead === 0) break;
    read += bytesRead;
  }
  return data.subarray(0, read);
}
