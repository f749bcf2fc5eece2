/** The kernel of the OS: Debian's own, with the modules that a capsule can use, unpacked and indexed. */
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { downloadPackages, extractPackage } from "./apt.ts";
import { cached } from "./cached.ts";
import { isKept } from "./modules.ts";
import { cacheDir } from "./paths.ts";
import { run } from "./run.ts";

const metaPackage = process.arch === "arm64" ? "linux-image-arm64" : "linux-image-amd64";

export interface Kernel {
  /** As `uname -r` tells it. */
  readonly version: string;
  /** The Debian package and its version. */
  readonly source: string;
  readonly vmlinuz: string;
  /** Holds usr/lib/modules/VERSION. */
  readonly root: string;
}

/** A kernel's package, and its archive. */
export interface KernelPackage {
  /** As `uname -r` tells it. */
  readonly version: string;
  /** The Debian package and its version. */
  readonly source: string;
  readonly deb: string;
}

/** Finds the kernel that a package of the suite stands for today, and ensures that its archive is in the cache. */
export async function fetchKernel(metaPackage: string): Promise<KernelPackage> {
  const downloads = join(cacheDir, "kernel");
  const [meta = ""] = await downloadPackages([metaPackage], downloads);
  const name = /linux-image-[^ ,]+/.exec(await run(["dpkg-deb", "-f", meta, "Depends"]))?.[0];
  if (name === undefined) throw new Error(`${meta} names no kernel`);
  const [deb = ""] = await downloadPackages([name], downloads);
  const version = name.slice("linux-image-".length);
  const source = `${name} ${(await run(["dpkg-deb", "-f", deb, "Version"])).trim()}`;
  return { version, source, deb };
}

/** Ensures the kernel that the suite has today is in the cache. */
export async function buildKernel(): Promise<Kernel> {
  const { version, source, deb } = await fetchKernel(metaPackage);
  const hash = createHash("sha256").update(source);
  for (const file of ["kernel.ts", "modules.ts"]) hash.update(await readFile(join(import.meta.dirname, file)));
  const target = join(cacheDir, `kernel-${hash.digest("hex").slice(0, 16)}`);
  const kernel = { version, source, vmlinuz: join(target, "vmlinuz"), root: join(target, "root") };
  await cached(target, async (scratch) => {
    await extractPackage(deb, join(scratch, "deb"));
    await mkdir(join(scratch, "made/root"), { recursive: true });
    await cp(join(scratch, "deb/boot", `vmlinuz-${version}`), join(scratch, "made/vmlinuz"));
    await keepModules(join(scratch, "deb/usr/lib/modules", version), join(scratch, "made/root"), version);
    return join(scratch, "made");
  });
  return kernel;
}

async function keepModules(from: string, root: string, version: string): Promise<void> {
  const to = join(root, "usr/lib/modules", version);
  const kept: string[] = [];
  for (const entry of await readdir(join(from, "kernel"), { recursive: true })) {
    if (!/\.ko(\.xz)?$/.test(entry) || !isKept(entry)) continue;
    const path = join(to, "kernel", entry);
    await mkdir(dirname(path), { recursive: true });
    await cp(join(from, "kernel", entry), path);
    kept.push(path);
  }
  if (kept.length === 0) throw new Error(`no kernel modules in ${from}`);
  for (const name of ["modules.builtin", "modules.builtin.modinfo", "modules.order"])
    await cp(join(from, name), join(to, name));
  // Plain modules: squashfs compresses them better together than xz does one by one, and loading them costs less.
  const packed = kept.filter((path) => path.endsWith(".xz"));
  for (let i = 0; i < packed.length; i += 200) await run(["xz", "-d", ...packed.slice(i, i + 200)]);
  // depmod looks below /lib, which is a link to /usr/lib on a capsule.
  await run(["depmod", "-b", join(root, "usr"), "-w", version]);
}
