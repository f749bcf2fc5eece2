/**
 * Trees of chosen files of Debian packages: the root filesystem and the tool image are made so. All packages with what they
 * depend on are unpacked beside; what is named is copied, and the shared libraries that it loads follow by themselves.
 */
import { chmod, lstat, mkdir, readdir, readFile, readlink, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { extractSuite } from "./apt.ts";
import type { ImagePackage } from "./packages.ts";
import { run } from "./run.ts";

/** Since /usr was merged, the old directories are links. */
const mergedUsr = ["bin", "sbin", "lib", "lib64"] as const;

/** In the tree: what it is made of, for the bill of materials (sbom.ts) and for whoever looks inside. */
export const packageListPath = "usr/lib/capsule/packages.json";

/** A Debian package that something in the tree came from. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  readonly source: string;
}

/** For each archive a line with its facts, then its files, each behind a blank. $1 is the tree, the list goes beside it. */
const listContents = `
for deb in "$1"/var/cache/apt/archives/*.deb; do
  dpkg-deb -W --showformat='\${Package}\t\${Version}\t\${Architecture}\t\${source:Package}\n' "$deb"
  dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's/^/ /'
done >"$1.contents"`;

/** Unpacks packages with all that they depend on; what came from which is in DIRECTORY.contents. */
export async function extractListed(names: readonly string[], directory: string): Promise<void> {
  // The archives are gone afterwards, and with them which file came from which version of which package.
  await extractSuite(names, directory, [`--extract-hook=${listContents}`]);
}

/** The packages of an unpacked tree, each with its files and links, relative to the root. */
export async function contentsOf(debian: string): Promise<Map<DebianPackage, string[]>> {
  const contents = new Map<DebianPackage, string[]>();
  let files: string[] = [];
  for (const line of (await readFile(`${debian}.contents`, "utf8")).split("\n")) {
    if (line.startsWith(" ")) {
      if (!line.endsWith("/")) files.push(withoutMergedLinks(line.slice(1).replace(/^\.\//, "")));
    } else if (line !== "") {
      const [name = "", version = "", architecture = "", source = name] = line.split("\t");
      files = [];
      contents.set({ name, version, architecture, source }, files);
    }
  }
  return contents;
}

/** Keeps the names of those packages that a file of the tree came from. Throws when they are fewer than `atLeast`. */
export async function writePackageList(debian: string, root: string, atLeast: number): Promise<void> {
  const packages: DebianPackage[] = [];
  for (const [one, files] of await contentsOf(debian))
    for (const file of files) {
      if (!(await exists(join(root, file)))) continue;
      packages.push(one);
      break;
    }
  if (packages.length < atLeast) throw new Error(`only ${packages.length} packages were found in ${debian}.contents`);
  packages.sort((a, b) => (a.name < b.name ? -1 : 1));
  await mkdir(dirname(join(root, packageListPath)), { recursive: true });
  await writeFile(join(root, packageListPath), `${JSON.stringify(packages, undefined, 1)}\n`);
}

/** A new root with its directories: those of /usr with the links to them, and `empty` ones, where mounts go. */
export async function makeRoot(root: string, empty: readonly (readonly [path: string, mode: number])[]): Promise<void> {
  for (const name of mergedUsr) await mkdir(join(root, "usr", name), { recursive: true });
  for (const name of mergedUsr) await symlink(`usr/${name}`, join(root, name));
  for (const [path, mode] of empty) {
    await mkdir(join(root, path), { recursive: true });
    await chmod(join(root, path), mode);
  }
}

/** Copies what packages keep; returns the regular files among it, relative to the root. */
export async function copyKept(debian: string, root: string, packages: readonly ImagePackage[]): Promise<string[]> {
  const triplet = await tripletOf(debian);
  const files: string[] = [];
  for (const entry of packages) {
    let found = false;
    for (const template of entry.keep) {
      const path = template.replace("@triplet@", triplet);
      // A few programs moved between bin and sbin over Debian's releases: either place will do.
      if (!(await exists(join(debian, path)))) continue;
      found = true;
      files.push(...(await copy(debian, root, path)));
    }
    if (!found)
      throw new Error(
        `package ${entry.name} no longer has any of: ${entry.keep.join(", ")} (see image/packages.ts, image/tools/packages.ts)`,
      );
  }
  return files;
}

async function tripletOf(debian: string): Promise<string> {
  const name = (await readdir(join(debian, "usr/lib"))).find((entry) => entry.endsWith("-linux-gnu"));
  if (name === undefined) throw new Error(`no library directory in ${debian}/usr/lib`);
  return name;
}

/** Copies one path with its attributes, and where it is a link within its directory, also what it names. */
async function copy(debian: string, root: string, path: string): Promise<string[]> {
  const from = join(debian, path);
  const to = join(root, path);
  await mkdir(dirname(to), { recursive: true });
  const status = await lstat(from);
  if (status.isDirectory()) {
    await run(["cp", "-a", "--no-target-directory", from, to]);
    return [];
  }
  await run(["cp", "-a", from, to]);
  if (!status.isSymbolicLink()) return [path];
  const target = await readlink(from);
  const named = target.startsWith("/") ? withoutMergedLinks(target) : join(dirname(path), target);
  return (await exists(join(debian, named))) ? await copy(debian, root, named) : [];
}

/**
 * Copies every shared library that the kept programs load, found by asking the tree's own dynamic loader.
 * @throws {Error} when a program needs a library that no package brought.
 */
export async function copyLibraries(debian: string, root: string, programs: readonly string[]): Promise<void> {
  const copied = new Set<string>();
  for (const program of programs) {
    if (!(await isElf(join(debian, program)))) continue;
    const listing = await run(["chroot", debian, "/usr/bin/ld.so", "--list", `/${program}`]).catch((error: unknown) => {
      // The loader refuses a static program, which needs no library.
      if (String(error).includes("not a dynamic executable") || String(error).includes("statically linked")) return "";
      throw error;
    });
    for (const line of listing.split("\n")) {
      if (line.includes("not found")) throw new Error(`${program} needs ${line.trim()}`);
      const library = /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1];
      if (library === undefined) continue;
      const path = withoutMergedLinks(library);
      if (copied.has(path)) continue;
      copied.add(path);
      await copy(debian, root, path);
    }
  }
}

async function isElf(path: string): Promise<boolean> {
  const head = (await readFile(path)).subarray(0, 4);
  return head.equals(Buffer.from("\x7fELF", "latin1"));
}

function withoutMergedLinks(path: string): string {
  const relative = path.replace(/^\/+/, "");
  const [first = ""] = relative.split("/");
  return mergedUsr.some((name) => name === first) ? `usr/${relative}` : relative;
}

/** Gives every busybox tool its name where no full program has it. */
export async function linkBusybox(root: string): Promise<void> {
  const list = await run(["chroot", root, "/usr/bin/busybox", "--list-full"]);
  for (const path of list.split("\n").filter((line) => line !== "")) {
    const name = basename(path);
    const taken = await Promise.all(["usr/bin", "usr/sbin"].map((dir) => exists(join(root, dir, name))));
    if (!taken.includes(true)) await symlink("/usr/bin/busybox", join(root, "usr/bin", name));
  }
}

export async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}
