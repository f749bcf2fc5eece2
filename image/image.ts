/** `make image`: build/disk.raw, a whole disk that boots, build/update.tar, one slot of it, and what is in them. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeDisk } from "./disk/disk.ts";
import { defaultSlotBytes, layoutOf } from "./disk/layout.ts";
import { epoch } from "./epoch.ts";
import { productVersion } from "./layer.ts";
import { buildDir } from "./paths.ts";
import { writeSbom } from "./sbom.ts";
import { buildSlot, type Slot } from "./slot.ts";
import { signSlot, writeUpdate } from "./update.ts";
import { signingKey } from "./update-key.ts";

const MiB = 1024 * 1024;
export const diskPath = join(buildDir, "disk.raw");
/** What the disk was made of. */
const diskKeyPath = join(buildDir, "disk.key");
const updatePath = join(buildDir, "update.tar");
const sbomPath = join(buildDir, "sbom.spdx.json");
const defaultDiskBytes = 8 * 1024 * MiB;

export interface ImageOptions {
  readonly diskBytes?: number;
  readonly slotBytes?: number;
}

/** Builds what is missing. Throws LayoutError when a size does not do. */
export async function buildImage(options: ImageOptions = {}): Promise<void> {
  const { diskBytes = defaultDiskBytes, slotBytes = defaultSlotBytes } = options;
  // A size that is not possible is told before anything is built.
  const partitions = layoutOf(diskBytes, slotBytes);
  const slot = await buildSlot();
  const { size } = await stat(slot.squashfs);
  if (size > slotBytes) {
    const needed = Math.ceil(size / MiB);
    throw new Error(`the squashfs has ${needed} MiB and a slot ${slotBytes / MiB}: give SLOT_MIB=${needed} or more`);
  }
  const signed = await signSlot(slot, { version: await productVersion(), epoch, key: signingKey() });
  const signature = Buffer.from(signed.head.signature).toString("hex");
  // A disk that is written again is a newer one to `make qemu`.
  const key = JSON.stringify({ slot, signature, diskBytes, slotBytes, programs: await diskPrograms() });
  if (!existsSync(diskPath) || (await readFile(diskKeyPath, "utf8").catch(() => "")) !== key) {
    await rm(diskKeyPath, { force: true });
    await writeDisk(signed, partitions, diskBytes, diskPath);
    await writeFile(diskKeyPath, key);
  }
  await writeUpdate(signed, updatePath);
  await writeSbom(sbomPath);
}

/** The slot that build/disk.raw was made of, whatever has changed since. */
export async function builtSlot(): Promise<Slot> {
  return (JSON.parse(await readFile(diskKeyPath, "utf8")) as { slot: Slot }).slot;
}

/** Digest of what writes a disk. */
async function diskPrograms(): Promise<string> {
  const hash = createHash("sha256");
  const dir = join(import.meta.dirname, "disk");
  for (const name of [...(await readdir(dir)).sort(), "../grub/grub.cfg"])
    hash.update(name).update(await readFile(join(dir, name)));
  return hash.digest("hex");
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
    await buildImage({ ...(diskBytes && { diskBytes }), ...(slotBytes && { slotBytes }) });
    const { size, blocks } = await stat(diskPath);
    console.log(`${diskPath}: ${size / MiB} MiB, ${Math.round((blocks * 512) / MiB)} MiB of it in use`);
    console.log(`${updatePath}: ${Math.round((await stat(updatePath)).size / MiB)} MiB`);
    console.log(`${sbomPath}: what they are made of`);
  } catch (error) {
    console.error(`make image: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
