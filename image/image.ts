/**
 * `make image`: build/disk.raw, a whole disk that boots, and build/update.tar, one slot of it. No loop device and no mount:
 * filesystems are made as files. The same inputs give the same bytes (source-date.ts).
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import {
  cp,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { defaultSlotBytes, diskSignature, layoutOf, type Partition, sfdiskScript } from "./disk/layout.ts";
import { writeInitramfs } from "./initramfs.ts";
import { buildKernel, type Kernel } from "./kernel.ts";
import { buildLayer } from "./layer.ts";
import { buildDir, cacheDir } from "./paths.ts";
import { buildRootfs } from "./rootfs.ts";
import { run } from "./run.ts";
import { sourceDate } from "./source-date.ts";

const MiB = 1024 * 1024;
export const diskPath = join(buildDir, "disk.raw");
const updatePath = join(buildDir, "update.tar");
const defaultDiskBytes = 8 * 1024 * MiB;
/** Of the image only; the installer gives each disk its own. */
const imageDiskId = "B1A570FF-0000-4000-8000-000000000000";
const imagePartitionId = (number: number): string => `B1A570FF-0000-4000-8000-00000000000${number}`;

export interface ImageOptions {
  readonly diskBytes?: number;
  readonly slotBytes?: number;
}

/** What one slot consists of. */
interface Slot {
  readonly squashfs: string;
  readonly vmlinuz: string;
  readonly initrd: string;
}

/** Builds what is missing and returns the path of the disk. Throws LayoutError when a size does not do. */
export async function buildImage(options: ImageOptions = {}): Promise<string> {
  const slotBytes = options.slotBytes ?? defaultSlotBytes;
  // A size that is not possible is told before anything is built.
  const partitions = layoutOf(options.diskBytes ?? defaultDiskBytes, slotBytes);
  const slot = await buildSlot();
  const { size } = await stat(slot.squashfs);
  if (size > slotBytes) {
    const needed = Math.ceil(size / MiB);
    throw new Error(`the squashfs has ${needed} MiB and a slot ${slotBytes / MiB}: give SLOT_MIB=${needed} or more`);
  }
  await writeDisk(slot, partitions, options.diskBytes ?? defaultDiskBytes);
  await writeUpdate(slot);
  return diskPath;
}

/** The root filesystem, kernel and initramfs, kept under the hash of what they are made of. */
async function buildSlot(): Promise<Slot> {
  const [rootfs, layer, kernel] = [await buildRootfs(), await buildLayer(), await buildKernel()];
  const hash = createHash("sha256").update([rootfs, layer, kernel.root, String(sourceDate)].join("\0"));
  for (const file of ["image.ts", "initramfs.ts", "initramfs/init"])
    hash.update(await readFile(join(import.meta.dirname, file)));
  const dir = join(cacheDir, `slot-${hash.digest("hex").slice(0, 16)}`);
  const slot = { squashfs: join(dir, "root.squashfs"), vmlinuz: join(dir, "vmlinuz"), initrd: join(dir, "initrd") };
  if (existsSync(dir)) return slot;
  const scratch = join(cacheDir, `.slot-${process.pid}`);
  try {
    await rm(scratch, { recursive: true, force: true });
    await mkdir(scratch, { recursive: true });
    await writeSquashfs(rootfs, layer, kernel, join(scratch, "tree"), join(scratch, "root.squashfs"));
    await cp(kernel.vmlinuz, join(scratch, "vmlinuz"));
    await writeInitramfs(kernel, rootfs, join(scratch, "initrd"));
    await rename(scratch, dir);
    return slot;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function writeSquashfs(
  rootfs: string,
  layer: string,
  kernel: Kernel,
  tree: string,
  target: string,
): Promise<void> {
  // Links cost nothing; what a later source has replaces what an earlier one had.
  for (const source of [rootfs, layer, kernel.root])
    await run(["cp", "-a", "--link", "--remove-destination", "--no-target-directory", source, tree]);
  const time = String(sourceDate.getTime() / 1000);
  await run(
    [
      "mksquashfs",
      tree,
      target,
      "-noappend",
      "-no-progress",
      "-quiet",
      "-all-root",
      "-no-xattrs",
      "-reproducible",
    ].concat(
      // 128 KiB blocks: larger ones are smaller on disk and slower at every page fault of a cold start.
      ["-comp", "zstd", "-Xcompression-level", "15", "-b", "131072", "-mkfs-time", time, "-all-time", time],
    ),
    { logFile: join(buildDir, "log/squashfs.log") },
  );
  await rm(tree, { recursive: true, force: true });
}

async function writeDisk(slot: Slot, partitions: readonly Partition[], diskBytes: number): Promise<void> {
  const scratch = `${diskPath}.new`;
  const esp = `${diskPath}.esp`;
  try {
    await rm(scratch, { force: true });
    await writeFile(scratch, "");
    await truncate(scratch, diskBytes);
    await run(["sfdisk", "--quiet", scratch], { input: sfdiskScript(partitions, imageDiskId, imagePartitionId) });
    await writeSignature(scratch);
    const [boot, slotA] = partitions;
    if (boot === undefined || slotA === undefined) throw new Error("the layout has no boot partition or slot");
    await writeEsp(slot, esp, boot.sizeBytes);
    await copyInto(scratch, esp, boot.startBytes);
    await copyInto(scratch, slot.squashfs, slotA.startBytes);
    await rename(scratch, diskPath);
  } finally {
    await rm(scratch, { force: true });
    await rm(esp, { force: true });
  }
}

/** The four bytes at offset 440 of the first sector, little-endian: fdisk's "disk identifier" of an MBR. */
async function writeSignature(disk: string): Promise<void> {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(Number.parseInt(diskSignature, 16));
  const file = await open(disk, "r+");
  await file.write(bytes, 0, 4, 440);
  await file.close();
}

/** FAT with GRUB, its configuration, and kernel and initramfs of each slot: all that firmware and GRUB must read. */
async function writeEsp({ vmlinuz, initrd }: Slot, target: string, sizeBytes: number): Promise<void> {
  await writeFile(target, "");
  await truncate(target, sizeBytes);
  await run(["mkfs.vfat", "-F", "32", "-n", "CAPSULEBOOT", "-i", diskSignature, "--invariant", target]);
  const grub = `${target}.grub`;
  const early = `${target}.cfg`;
  try {
    await writeFile(early, "configfile $prefix/grub.cfg\n");
    // Only what is needed to read a FAT partition of the disk that GRUB came from, and to start Linux.
    const modules = [
      "part_gpt",
      "fat",
      "normal",
      "configfile",
      "linux",
      "echo",
      "test",
      "serial",
      "terminal",
      "loadenv",
      "efi_gop",
    ];
    await run(
      ["grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-c", early, "-o", grub].concat(modules, [
        "reboot",
        "halt",
        "sleep",
      ]),
    );
    for (const file of [grub, vmlinuz, initrd]) await utimes(file, sourceDate, sourceDate);
    const config = join(import.meta.dirname, "grub/grub.cfg");
    // -m keeps the files' times; mtools writes directories with the time of SOURCE_DATE_EPOCH.
    const env = { SOURCE_DATE_EPOCH: String(sourceDate.getTime() / 1000), MTOOLS_SKIP_CHECK: "1", TZ: "UTC" };
    const tool = async (argv: readonly string[]): Promise<void> =>
      void (await run(["env", ...Object.entries(env).map(([key, value]) => `${key}=${value}`), ...argv]));
    await tool(["mmd", "-i", target, "::/EFI", "::/EFI/BOOT", "::/capsule", "::/capsule/a", "::/capsule/b"]);
    await tool(["mcopy", "-m", "-i", target, grub, "::/EFI/BOOT/BOOTX64.EFI"]);
    await tool(["mcopy", "-i", target, config, "::/EFI/BOOT/grub.cfg"]);
    await tool(["mcopy", "-m", "-i", target, vmlinuz, "::/capsule/a/vmlinuz"]);
    await tool(["mcopy", "-m", "-i", target, initrd, "::/capsule/a/initrd"]);
  } finally {
    await rm(grub, { force: true });
    await rm(early, { force: true });
  }
}

/** Leaves holes where the source has zeros. */
async function copyInto(disk: string, file: string, offset: number): Promise<void> {
  const target = await open(disk, "r+");
  const zeros = Buffer.alloc(MiB);
  let at = offset;
  try {
    for await (const data of createReadStream(file, { highWaterMark: MiB }) as AsyncIterable<Buffer>) {
      if (!data.equals(zeros.subarray(0, data.length))) await target.write(data, 0, data.length, at);
      at += data.length;
    }
    await target.sync();
  } finally {
    await target.close();
  }
}

/** One slot as a tar with a list of digests first; signatures come with updates. */
async function writeUpdate(slot: Slot): Promise<void> {
  const dir = `${updatePath}.dir`;
  try {
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir);
    const files: Record<string, { sha256: string; sizeBytes: number }> = {};
    for (const [name, path] of Object.entries(slot)) {
      const target = join(dir, name);
      await link(path, target).catch(() => cp(path, target));
      const hash = createHash("sha256");
      await pipeline(createReadStream(path), hash);
      files[name] = { sha256: hash.digest("hex"), sizeBytes: (await stat(path)).size };
    }
    await writeFile(join(dir, "manifest.json"), `${JSON.stringify({ format: 1, files }, undefined, 2)}\n`);
    const names = ["manifest.json", ...(await readdir(dir)).filter((name) => name !== "manifest.json").sort()];
    const fixed = ["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644"];
    await run([
      "tar",
      "-C",
      dir,
      ...fixed,
      `--mtime=@${sourceDate.getTime() / 1000}`,
      "-cf",
      `${updatePath}.new`,
      ...names,
    ]);
    await rename(`${updatePath}.new`, updatePath);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function mib(text: string | undefined, name: string): number | undefined {
  if (text === undefined || text === "") return undefined;
  if (/^[0-9]+$/.test(text)) return Number(text) * MiB;
  throw new Error(`${name}=${text}: a number of MiB is needed`);
}

if (import.meta.main) {
  try {
    const { DISK_MIB, SLOT_MIB } = process.env;
    const diskBytes = mib(DISK_MIB, "DISK_MIB");
    const slotBytes = mib(SLOT_MIB, "SLOT_MIB");
    const path = await buildImage({ ...(diskBytes && { diskBytes }), ...(slotBytes && { slotBytes }) });
    const { size, blocks } = await stat(path);
    console.log(`${path}: ${size / MiB} MiB, ${Math.round((blocks * 512) / MiB)} MiB of it in use`);
    console.log(`${updatePath}: ${Math.round((await stat(updatePath)).size / MiB)} MiB`);
  } catch (error) {
    console.error(`make image: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
