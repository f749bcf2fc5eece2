/**
 * One boot for many tests: a machine is booted once from a blank disk, and saved when its API first answers, before
 * anybody has adopted it. Each suite goes on from there on its own copy of the disk. What a boot does is tested by
 * test/qemu, on machines that are booted.
 */
import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { copyFile, mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { diskPath } from "../../../image/image.ts";
import { cacheDir } from "../../../image/paths.ts";
import { copyDisk } from "../../../image/qemu/machine.ts";
import { buildQemu } from "../../../image/qemu/program.ts";

export interface SavedMachine {
  readonly disk: string;
  readonly firmware: string;
  /** Memory and devices. */
  readonly state: string;
}

/** `boot` is given a directory, brings a machine up there, saves it to `state` in it, and ends it. */
export async function savedMachine(boot: (dir: string) => Promise<void>): Promise<SavedMachine> {
  const dir = join(cacheDir, `machine-${await keyOf()}`);
  if (!existsSync(dir)) {
    const scratch = join(cacheDir, `.machine-${process.pid}`);
    try {
      await rm(scratch, { recursive: true, force: true });
      await mkdir(scratch, { recursive: true });
      await boot(scratch);
      await rename(scratch, dir).catch((error: NodeJS.ErrnoException) => {
        // Another test that began at the same time was faster.
        if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
      });
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }
  return { disk: join(dir, "disk.raw"), firmware: join(dir, "firmware.fd"), state: join(dir, "state") };
}

/** Copies what a machine writes to into its directory. */
export async function copySaved(saved: SavedMachine, dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await copyDisk(saved.disk, join(dir, "disk.raw"));
  await copyFile(saved.firmware, join(dir, "firmware.fd"));
}

/** Changes with the image, with QEMU and with how the machine is put together. */
async function keyOf(): Promise<string> {
  const { mtimeMs, size } = statSync(diskPath);
  const hash = createHash("sha256").update(`${mtimeMs} ${size} ${(await buildQemu()).argv.join(" ")}`);
  const here = import.meta.dirname;
  for (const file of ["agent.mjs", "qemu-host.ts", "saved-machine.ts", "../../../image/qemu/machine.ts"])
    hash.update(await readFile(join(here, file)));
  return hash.digest("hex").slice(0, 16);
}
