/** Debian's PostgreSQL as an image: the server where it was built for, with what it loads, and busybox. */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { programTree } from "../../image/program-tree.ts";
import { run } from "../../image/run.ts";
import { baseLayer, busybox } from "./build.ts";
import type { ImageSpec } from "./image.ts";
import type { TarEntry } from "./tar.ts";

const home = "usr/lib/postgresql/17";
const programs = ["postgres", "initdb", "psql"].map((name) => `${home}/bin/${name}`);
/** What initdb loads; the rest of its modules is for those who ask for them. */
const modules = ["plpgsql.so", "dict_snowball.so"].map((name) => `${home}/lib/${name}`);
const shared = "usr/share/postgresql/17";

export async function postgresImage(): Promise<ImageSpec> {
  const { program, tools } = await busybox();
  const { root, loader } = await programTree(["postgresql-17"]);
  const [ld = ""] = loader;
  const loaderPath = ld.slice(root.length + 1);
  const libraries = new Set<string>();
  for (const path of [...programs, ...modules]) {
    const listing = await run(["chroot", root, `/${loaderPath}`, "--list", `/${path}`]);
    for (const [, library = ""] of listing.matchAll(/=> (\/usr\/lib\/\S+)/g)) libraries.add(library.slice(1));
  }
  const files = [...programs, ...modules, ...libraries, loaderPath, ...(await filesBelow(root, shared))];
  const zones = ["usr/share/zoneinfo/UTC", "usr/share/zoneinfo/GMT"];
  const layer: TarEntry[] = [
    { path: "lib", type: "symlink", target: "usr/lib" },
    { path: "lib64", type: "symlink", target: "usr/lib64" },
    ...(await Promise.all([...new Set([...files, ...zones])].sort().map((path) => file(root, path)))),
    text("etc/passwd", "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:postgres:/:/bin/sh\n"),
    text("etc/group", "root:x:0:\npostgres:x:999:\n"),
  ];
  const config = { Cmd: ["sh"], Env: [`PATH=/bin:/${home}/bin`] };
  return { name: "postgres:17", layers: [baseLayer(program, tools), layer], config };
}

function text(path: string, content: string): TarEntry {
  return { path, type: "file", data: Buffer.from(content) };
}

async function file(root: string, path: string): Promise<TarEntry> {
  const from = await realpath(join(root, path));
  const { mode } = await stat(from);
  return { path, type: "file", mode: mode & 0o755, data: await readFile(from) };
}

/** Without manuals: their names are long, and nobody reads them here. */
async function filesBelow(root: string, dir: string): Promise<string[]> {
  const entries = await readdir(join(root, dir), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .filter(
      (path) => (!path.startsWith(`${dir}/man/`) && !path.startsWith(`${dir}/extension/`)) || path.includes("plpgsql"),
    );
}
