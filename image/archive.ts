/** Trees that become an initramfs: programs with what they load, packed so that the same files give the same bytes. */
import { cp, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { run } from "./run.ts";
import { clampTimes } from "./source-date.ts";

/** Where a program names its dynamic loader. */
const loader = process.arch === "arm64" ? "/lib/ld-linux-aarch64.so.1" : "/lib64/ld-linux-x86-64.so.2";

/** Copies a program of a root filesystem into a tree, to the same path, with its libraries and the dynamic loader. */
export async function copyProgram(rootfs: string, tree: string, program: string): Promise<void> {
  const listing = await run(["chroot", rootfs, loader, "--list", program]);
  const libraries = [...listing.matchAll(/=> (\/\S+) \(0x/g)].map(([, library = ""]) => library);
  for (const path of [program, loader, ...libraries]) {
    const to = join(tree, path);
    await mkdir(dirname(to), { recursive: true });
    await cp(join(rootfs, path), to, { dereference: true });
  }
}

/** Packs a tree. `compressor` reads standard input and writes to the file that follows its `-o`; none: `cat`. */
export async function writeArchive(tree: string, target: string, compressor?: string): Promise<void> {
  await clampTimes(tree);
  const sink = compressor === undefined ? 'cat >"$2"' : `${compressor} -f -o "$2"`;
  // Names sorted, inodes counted anew.
  const pack = "LC_ALL=C sort | cpio --quiet --create --format=newc --reproducible --owner=0:0";
  await run(["sh", "-ec", `cd "$1"; find . -mindepth 1 | ${pack} | ${sink}`, "sh", tree, target]);
}
