/**
 * Builds the root filesystem of a capsule from Debian packages: `node image/rootfs.ts` prints its directory.
 * The result is cached under the hash of its inputs and never changes afterwards, because running capsules have it
 * mounted as the lower layer of an overlay.
 */
import { createHash } from "node:crypto";
import { chmod, lstat, mkdir, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { extractSuite, suite } from "./apt.ts";
import { cached } from "./cached.ts";
import { imagePackages } from "./packages.ts";
import { cacheDir } from "./paths.ts";
import { run } from "./run.ts";
import { clampTimes, sourceDate } from "./source-date.ts";

/** Directories that exist in every capsule and hold nothing in the image; mounts go there. */
const emptyDirectories: readonly (readonly [path: string, mode: number])[] = [
  ["boot", 0o755],
  ["dev", 0o755],
  ["mnt", 0o755],
  ["perm", 0o755],
  ["proc", 0o555],
  ["root", 0o700],
  ["run", 0o755],
  ["sys", 0o555],
  ["tmp", 0o1777],
  ["var/lib", 0o755],
  ["var/cache", 0o755],
  ["var/tmp", 0o1777],
  ["opt/cni", 0o755],
];

/** Since /usr was merged, the old directories are links. */
const mergedUsr = ["bin", "sbin", "lib", "lib64"] as const;

/**
 * Ensures the root filesystem is in the cache and returns its directory.
 * @throws {import("./run.ts").CommandError} when a package cannot be fetched; the full output is in build/log.
 */
export async function buildRootfs(): Promise<string> {
  const target = join(cacheDir, `rootfs-${await inputsHash()}`);
  return await cached(target, async (scratch) => {
    const debian = join(scratch, "debian");
    const root = join(scratch, "root");
    await extractDebian(debian);
    await mkdir(root, { recursive: true });
    await makeSkeleton(root);
    const kept = await copyKept(debian, root);
    await copyLibraries(debian, root, kept);
    await writePackageList(debian, root);
    await linkBusybox(root);
    await writeCaBundle(root);
    await clampTimes(root);
    return root;
  });
}

async function inputsHash(): Promise<string> {
  const hash = createHash("sha256").update(suite).update(process.arch).update(String(sourceDate));
  for (const file of ["apt.ts", "packages.ts", "rootfs.ts"])
    hash.update(await readFile(join(import.meta.dirname, file)));
  return hash.digest("hex").slice(0, 16);
}

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

/** Keeps the names of those packages that a file of the root came from. */
async function writePackageList(debian: string, root: string): Promise<void> {
  const packages: DebianPackage[] = [];
  let current: DebianPackage | undefined;
  for (const line of (await readFile(`${debian}.contents`, "utf8")).split("\n")) {
    if (!line.startsWith(" ")) {
      const [name = "", version = "", architecture = "", source = name] = line.split("\t");
      current = name === "" ? undefined : { name, version, architecture, source };
    } else if (current !== undefined && packages.at(-1) !== current && !line.endsWith("/")) {
      if (await exists(join(root, withoutMergedLinks(line.slice(1).replace(/^\.\//, ""))))) packages.push(current);
    }
  }
  if (packages.length < imagePackages.length)
    throw new Error(`only ${packages.length} packages were found in ${debian}.contents`);
  packages.sort((a, b) => (a.name < b.name ? -1 : 1));
  await mkdir(dirname(join(root, packageListPath)), { recursive: true });
  await writeFile(join(root, packageListPath), `${JSON.stringify(packages, undefined, 1)}\n`);
}

/** All packages and what they depend on. */
async function extractDebian(directory: string): Promise<void> {
  // The archives are gone afterwards, and with them which file came from which version of which package.
  await extractSuite(
    imagePackages.map((entry) => entry.name),
    directory,
    [`--extract-hook=${listContents}`],
  );
}

async function makeSkeleton(root: string): Promise<void> {
  for (const name of ["bin", "sbin", "lib", "lib64"]) await mkdir(join(root, "usr", name), { recursive: true });
  for (const name of mergedUsr) await symlink(`usr/${name}`, join(root, name));
  for (const [path, mode] of emptyDirectories) {
    await mkdir(join(root, path), { recursive: true });
    await chmod(join(root, path), mode);
  }
  await symlink("/run", join(root, "var/run"));
  await symlink("/run/lock", join(root, "var/lock"));
}

/** Copies what the package list keeps; returns the regular files among it, relative to the root. */
async function copyKept(debian: string, root: string): Promise<string[]> {
  const triplet = await tripletOf(debian);
  const files: string[] = [];
  for (const entry of imagePackages) {
    let found = false;
    for (const template of entry.keep) {
      const path = template.replace("@triplet@", triplet);
      // A few programs moved between bin and sbin over Debian's releases: either place will do.
      if (!(await exists(join(debian, path)))) continue;
      found = true;
      files.push(...(await copy(debian, root, path)));
    }
    if (!found)
      throw new Error(`package ${entry.name} no longer has any of: ${entry.keep.join(", ")} (see image/packages.ts)`);
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
async function copyLibraries(debian: string, root: string, programs: readonly string[]): Promise<void> {
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
async function linkBusybox(root: string): Promise<void> {
  const list = await run(["chroot", root, "/usr/bin/busybox", "--list-full"]);
  for (const path of list.split("\n").filter((line) => line !== "")) {
    const name = basename(path);
    const taken = await Promise.all(["usr/bin", "usr/sbin"].map((dir) => exists(join(root, dir, name))));
    if (!taken.includes(true)) await symlink("/usr/bin/busybox", join(root, "usr/bin", name));
  }
}

/** What ca-certificates' own script would make at installation. */
async function writeCaBundle(root: string): Promise<void> {
  const from = join(root, "usr/share/ca-certificates");
  const names = (await readdir(join(from, "mozilla"))).filter((name) => name.endsWith(".crt")).sort();
  const texts = await Promise.all(
    names.map(async (name) => (await readFile(join(from, "mozilla", name), "utf8")).trimEnd()),
  );
  await mkdir(join(root, "etc/ssl/certs"), { recursive: true });
  await writeFile(join(root, "etc/ssl/certs/ca-certificates.crt"), `${texts.join("\n")}\n`);
  await rm(from, { recursive: true });
}

async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}

if (import.meta.main) console.log(await buildRootfs());
