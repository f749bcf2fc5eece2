/** A program of Debian with the libraries that it loads, as a layer: for images without a distribution in them. */
import { readFile, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import { programTree } from "../../image/program-tree.ts";
import { run } from "../../image/run.ts";
import type { TarEntry } from "./tar.ts";

/** `program` is a path in the package, and its last part the command in the image. */
export async function programLayer(packageName: string, program: string): Promise<TarEntry[]> {
  const { root, loader } = await programTree([packageName]);
  const name = basename(program);
  const file = async (path: string, from: string): Promise<TarEntry> => ({
    path,
    type: "file",
    mode: 0o755,
    data: await readFile(await realpath(from)),
  });
  const [ld = ""] = loader;
  const listing = await run(["chroot", root, ld.slice(root.length), "--list", `/${program}`]);
  const libraries = [...listing.matchAll(/^\s*(\S+) => (\/\S+)/gm)];
  // Where the loader must be depends on the processor: it is called by name.
  const start = `#!/bin/sh\nexec /lib/${basename(ld)} --library-path /lib /lib/${name} "$@"\n`;
  return [
    { path: "lib", type: "directory", mode: 0o755 },
    await file(`lib/${basename(ld)}`, ld),
    ...(await Promise.all(libraries.map(([, soname = "", from = ""]) => file(`lib/${soname}`, join(root, from))))),
    await file(`lib/${name}`, join(root, program)),
    { path: `bin/${name}`, type: "file", mode: 0o755, data: Buffer.from(start) },
  ];
}
