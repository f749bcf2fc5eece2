/**
 * Gets containerd's .proto files from Debian's source of the very containerd that the capsule runs, so that the
 * generated client can never describe another version. Prints the directory: `node image/containerd-protos.ts`.
 */
import { cp, mkdir, readdir } from "node:fs/promises";
import { join, relative } from "node:path";
import { downloadPackages, extractPackage } from "./apt.ts";
import { cached } from "./cached.ts";
import { cacheDir } from "./paths.ts";

const packageName = "golang-github-containerd-containerd-dev";
const sourceRoot = "usr/share/gocode/src/github.com/containerd/containerd";

/**
 * Ensures `build/cache/containerd-protos` holds the files as their imports name them
 * (`github.com/containerd/containerd/api/…`) and returns that directory. Instant when it is there.
 */
export async function containerdProtos(): Promise<string> {
  const target = join(cacheDir, "containerd-protos");
  return await cached(target, async (scratch) => {
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
    return to;
  });
}

if (import.meta.main) console.log(await containerdProtos());
