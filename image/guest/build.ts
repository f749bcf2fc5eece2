/**
 * What microVMs boot: a kernel, and an initramfs with capsule-guest, the OCI runtime and the modules. Both are in the image
 * at /usr/lib/capsule/guest.
 */
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { copyProgram, writeArchive } from "../archive.ts";
import { cached } from "../cached.ts";
import { cacheDir, repositoryRoot } from "../paths.ts";
import { buildRootfs } from "../rootfs.ts";
import { fetchGuestKernel, unpackGuestKernel } from "./kernel.ts";

const agent = join(repositoryRoot, "native/target/release/capsule-guest");

export interface Guest {
  readonly kernel: string;
  readonly initramfs: string;
  /** The Debian package of the kernel and its version. */
  readonly source: string;
}

/** Ensures that both are in the cache. */
export async function buildGuest(): Promise<Guest> {
  const kernel = await fetchGuestKernel();
  const rootfs = await buildRootfs();
  const hash = createHash("sha256")
    .update(kernel.source)
    .update(rootfs)
    .update(await readFile(agent));
  for (const file of ["build.ts", "kernel.ts", "../archive.ts"])
    hash.update(await readFile(join(import.meta.dirname, file)));
  const target = join(cacheDir, `guest-${hash.digest("hex").slice(0, 16)}`);
  const guest = { kernel: join(target, "vmlinux"), initramfs: join(target, "initramfs"), source: kernel.source };
  await cached(target, async (scratch) => {
    const tree = join(scratch, "tree");
    await mkdir(join(scratch, "made"), { recursive: true });
    for (const dir of ["dev", "proc", "sys", "run", "root", "tmp"]) await mkdir(join(tree, dir), { recursive: true });
    await copyProgram(rootfs, tree, "/usr/bin/crun");
    await copyFile(agent, join(tree, "init"));
    await unpackGuestKernel(kernel, join(scratch, "deb"), join(scratch, "made/vmlinux"), tree);
    // Not packed: unpacking it costs an emulated guest more than reading it.
    await writeArchive(tree, join(scratch, "made/initramfs"));
    return join(scratch, "made");
  });
  return guest;
}

if (import.meta.main) console.log(await buildGuest());
