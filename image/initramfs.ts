/** The initramfs: busybox, the modules that can lead to a slot, and one script. */
import { cp, mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { copyProgram, writeArchive } from "./archive.ts";
import type { Kernel } from "./kernel.ts";
import { diskModules, filesystemModules } from "./modules.ts";
import { run } from "./run.ts";

const applets =
  "sh cat cp dd echo find grep hexdump insmod ls mkdir modprobe mount read rm sleep sort switch_root tr uname".split(
    " ",
  );

/** Writes the initramfs for a kernel to `target`. `rootfs` gives busybox and its libraries. */
export async function writeInitramfs(kernel: Kernel, rootfs: string, target: string): Promise<void> {
  const tree = `${target}.tree`;
  await rm(tree, { recursive: true, force: true });
  try {
    for (const dir of ["bin", "dev", "proc", "sys", "run", "root", "lib"])
      await mkdir(join(tree, dir), { recursive: true });
    await copyBusybox(rootfs, tree);
    await copyModules(kernel, tree);
    await cp(join(import.meta.dirname, "initramfs/init"), join(tree, "init"));
    await writeArchive(tree, target, "zstd -q -19 -T1");
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function copyBusybox(rootfs: string, tree: string): Promise<void> {
  await copyProgram(rootfs, tree, "/usr/bin/busybox");
  await rename(join(tree, "usr/bin/busybox"), join(tree, "bin/busybox"));
  for (const name of applets) await symlink("busybox", join(tree, "bin", name)).catch(ignoreExisting);
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== "EEXIST") throw error;
}

/** What `modprobe` would load for each name, in the order that depmod found; never a list by hand. */
async function copyModules({ version, root }: Kernel, tree: string): Promise<void> {
  const from = join(root, "usr/lib/modules", version);
  const to = join(tree, "lib/modules", version);
  const needed = new Set<string>();
  for (const name of [...diskModules, ...filesystemModules]) {
    const shown = await run(["modprobe", "-d", join(root, "usr"), "-S", version, "--show-depends", name]);
    for (const [, path = ""] of shown.matchAll(/^insmod (\S+)/gm))
      needed.add(path.slice(path.indexOf(version) + version.length + 1));
  }
  for (const path of needed) {
    await mkdir(dirname(join(to, path)), { recursive: true });
    await cp(join(from, path), join(to, path));
  }
  for (const name of ["modules.builtin", "modules.builtin.modinfo", "modules.order"])
    await cp(join(from, name), join(to, name));
  await run(["depmod", "-b", tree, "-w", version]);
  await writeFile(join(tree, "filesystem-modules"), `${filesystemModules.join("\n")}\n`);
}
