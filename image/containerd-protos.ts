/**
 * Gets containerd's .proto files from Debian's source of the very containerd that the capsule runs, so that the
 * generated client can never describe another version. Prints the directory: `node image/containerd-protos.ts`.
 */
import { existsSync } from "node:fs";
import { cp, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join, relative } from "node:path";
import { downloadPackages, extractPackage } from "./apt.ts";
import { cacheDir } from "./paths.ts";

const packageName = "golang-github-containerd-containerd-dev";
const sourceRoot = "usr/share/gocode/src/github.com/containerd/containerd";

/**
 * Ensures `build/cache/containerd-protos` holds the files as their imports name them
 * (`github.com/containerd/containerd/api/…`) and returns that directory. Instant when it is there.
 */
export async function containerdProtos(): Promise<string> {
  const target = join(cacheDir, "containerd-protos");
  if (existsSync(target)) return target;
  const scratch = `${target}.${process.pid}`;
  try {
    const [deb] = await downloadPackages([packageName], join(cacheDir, "debs"));
    if (deb === undefined) throw new Error(`${packageName} was not downloaded`);
    await extractPackage(deb, join(scratch, "deb"));
    const from = join(scratch, "deb", sourceRoot);
    const to = join(scratch, "protos");
    await mkdir(to, { recursive: true });
    for (const entry of await readdir(from, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !entry.name.endsWith(".proto")) continue;
      const path = join(entry.parentPath, entry.name);
      await cp(path, join(to, "github.com/containerd/containerd", relative(from, path)));
    }
    await rename(to, target).catch((error: NodeJS.ErrnoException) => {
      // Another build was faster; its result is the same.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
    return target;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

if (import.meta.main) console.log(await containerdProtos());
