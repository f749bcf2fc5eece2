/** One slot: the root filesystem as squashfs, its kernel and initramfs, kept under the hash of what they are made of. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { writeInitramfs } from "./initramfs.ts";
import { buildKernel } from "./kernel.ts";
import { buildLayer } from "./layer.ts";
import { buildDir, cacheDir } from "./paths.ts";
import { buildRootfs } from "./rootfs.ts";
import { run } from "./run.ts";
import { sourceDate } from "./source-date.ts";

/** Paths of what a slot consists of. The same inputs give the same bytes (source-date.ts). */
export interface Slot {
  readonly squashfs: string;
  readonly vmlinuz: string;
  readonly initrd: string;
}

/** Builds what is missing. */
export async function buildSlot(): Promise<Slot> {
  const [rootfs, layer, kernel] = [await buildRootfs(), await buildLayer(), await buildKernel()];
  const hash = createHash("sha256").update([rootfs, layer, kernel.root, String(sourceDate)].join("\0"));
  for (const file of ["slot.ts", "initramfs.ts", "modules.ts", "initramfs/init"])
    hash.update(await readFile(join(import.meta.dirname, file)));
  const dir = join(cacheDir, `slot-${hash.digest("hex").slice(0, 16)}`);
  const slot = { squashfs: join(dir, "root.squashfs"), vmlinuz: join(dir, "vmlinuz"), initrd: join(dir, "initrd") };
  if (existsSync(dir)) return slot;
  const scratch = join(cacheDir, `.slot-${process.pid}`);
  try {
    await rm(scratch, { recursive: true, force: true });
    await mkdir(scratch, { recursive: true });
    await writeSquashfs([rootfs, layer, kernel.root], join(scratch, "tree"), join(scratch, "root.squashfs"));
    await cp(kernel.vmlinuz, join(scratch, "vmlinuz"));
    await writeInitramfs(kernel, rootfs, join(scratch, "initrd"));
    await rename(scratch, dir);
    return slot;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function writeSquashfs(sources: readonly string[], tree: string, target: string): Promise<void> {
  // Links cost nothing; what a later source has replaces what an earlier one had.
  for (const source of sources)
    await run(["cp", "-a", "--link", "--remove-destination", "--no-target-directory", source, tree]);
  const time = String(sourceDate.getTime() / 1000);
  const fixed = ["-noappend", "-no-progress", "-quiet", "-all-root", "-no-xattrs", "-reproducible"];
  const times = ["-mkfs-time", time, "-all-time", time];
  // 128 KiB blocks: larger ones are smaller on disk and slower at every page fault of a cold start.
  const compression = ["-comp", "zstd", "-Xcompression-level", "15", "-b", "131072"];
  await run(["mksquashfs", tree, target, ...fixed, ...compression, ...times], {
    logFile: join(buildDir, "log/squashfs.log"),
  });
  await rm(tree, { recursive: true, force: true });
}

if (import.meta.main) console.log(JSON.stringify(await buildSlot()));
