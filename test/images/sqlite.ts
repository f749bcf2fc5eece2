/** Debian's sqlite3 with its libraries, as a layer: a database for what is said of volumes. */
import { readdir, readFile, realpath, rm } from "node:fs/promises";
import { join } from "node:path";
import { downloadPackages, extractPackage } from "../../image/apt.ts";
import { cacheDir } from "../../image/paths.ts";
import type { TarEntry } from "./tar.ts";

const packages = ["sqlite3", "libsqlite3-0", "libreadline8t64", "libtinfo6", "libc6", "zlib1g"];
const libraries = /^(ld-linux.*|lib(sqlite3|readline|tinfo|z|m|c)\.so\.[0-9]+)$/;

export async function sqliteLayer(): Promise<TarEntry[]> {
  const debs = await downloadPackages(packages, join(cacheDir, "debs"));
  const scratch = join(cacheDir, `.sqlite-${process.pid}`);
  try {
    for (const deb of debs) await extractPackage(deb, scratch);
    const entries: TarEntry[] = [];
    let loader = "";
    const add = async (path: string, from: string): Promise<void> => {
      entries.push({ path, type: "file", mode: 0o755, data: await readFile(await realpath(from)) });
    };
    for (const triplet of await readdir(join(scratch, "usr/lib"))) {
      if (!triplet.endsWith("-linux-gnu")) continue;
      const dir = join(scratch, "usr/lib", triplet);
      for (const name of await readdir(dir)) {
        if (!libraries.test(name)) continue;
        await add(`lib/${name}`, join(dir, name));
        if (name.startsWith("ld-linux")) loader = name;
      }
    }
    await add("lib/sqlite3", join(scratch, "usr/bin/sqlite3"));
    // Where the loader must be depends on the processor: it is called by name.
    const start = `#!/bin/sh\nexec /lib/${loader} --library-path /lib /lib/sqlite3 "$@"\n`;
    entries.push({ path: "bin/sqlite3", type: "file", mode: 0o755, data: Buffer.from(start) });
    return [{ path: "lib", type: "directory", mode: 0o755 }, ...entries];
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
