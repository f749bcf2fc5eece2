/** Slots that differ from the one that was built, and what a disk would start. */
import { createHash } from "node:crypto";
import { createReadStream, mkdirSync, readFileSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { espOffset, layoutOf } from "../../image/disk/layout.ts";
import { run } from "../../image/run.ts";
import type { Slot } from "../../image/slot.ts";
import { readGrubenv } from "../../packages/capsuled/src/update/grubenv.ts";

const headBytes = 4096;

/** The same files in other bytes, on the disk as in memory. `blockKib`: of its squashfs; no two are alike. */
export async function variantOf(slot: Slot, blockKib: number, dir: string): Promise<Slot> {
  mkdirSync(dir);
  const [tree, squashfs, initrd] = [join(dir, "tree"), join(dir, "root.squashfs"), join(dir, "initrd")];
  await run(["unsquashfs", "-quiet", "-no-progress", "-dest", tree, slot.squashfs]);
  const fast = ["-comp", "zstd", "-Xcompression-level", "3", "-b", `${blockKib}K`];
  await run(["mksquashfs", tree, squashfs, "-noappend", "-no-progress", "-quiet", "-no-xattrs", ...fast]);
  await rm(tree, { recursive: true });
  const repacked = 'zstd --quiet --decompress --stdout "$1" | zstd --quiet "-$2" -o "$3"';
  await run(["sh", "-ec", repacked, "sh", slot.initrd, String(blockKib % 16), initrd]);
  return { ...slot, squashfs, initrd };
}

export interface NextStart {
  readonly slot: "a" | "b";
  readonly isTrial: boolean;
}

/** What the boot loader would start from this disk, by the rules of image/grub/grub.cfg. `scratch`: a path for a file. */
export async function nextStart(disk: string, scratch: string): Promise<NextStart> {
  await bootFile(disk, "grubenv", scratch);
  const { capsule_slot, capsule_try, capsule_tries } = readGrubenv(readFileSync(scratch));
  const isTrial = capsule_tries === "1" && (capsule_try === "a" || capsule_try === "b");
  return { slot: (isTrial ? capsule_try : capsule_slot) === "b" ? "b" : "a", isTrial };
}

/** The name of the version that a slot of this disk holds whole: kernel, initramfs and root. */
export async function versionIn(
  disk: string,
  slot: "a" | "b",
  versions: Readonly<Record<string, Slot>>,
  scratch: string,
): Promise<string | undefined> {
  const partition = layoutOf(statSync(disk).size).find(({ name }) => name === `slot_${slot}`);
  if (partition === undefined) throw new Error(`no partition for slot ${slot}`);
  for (const [name, version] of Object.entries(versions)) {
    let isWhole = await same(version.squashfs, disk, partition.startBytes);
    for (const file of ["vmlinuz", "initrd"] as const) {
      if (!isWhole) break;
      await bootFile(disk, `${slot}/${file}`, scratch);
      isWhole = await same(version[file], scratch, 0);
    }
    if (isWhole) return name;
  }
  return undefined;
}

async function bootFile(disk: string, name: string, target: string): Promise<void> {
  await run(["mcopy", "-n", "-o", "-i", `${disk}@@${espOffset}`, `::/capsule/${name}`, target]);
}

/** Whether `other` has at this place what `file` is. */
async function same(file: string, other: string, atBytes: number): Promise<boolean> {
  const { size } = statSync(file);
  // Most are told apart by their beginning.
  const head = (await piece(file, 0, headBytes)).equals(await piece(other, atBytes, headBytes));
  return head && (await digest(file, 0, size)) === (await digest(other, atBytes, size));
}

async function piece(file: string, atBytes: number, sizeBytes: number): Promise<Buffer> {
  return await buffer(createReadStream(file, { start: atBytes, end: atBytes + sizeBytes - 1 }));
}

async function digest(file: string, atBytes: number, sizeBytes: number): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file, { start: atBytes, end: atBytes + sizeBytes - 1 }), hash);
  return hash.digest("hex");
}
