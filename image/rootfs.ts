/**
 * Builds the root filesystem of a capsule from Debian packages: `node image/rootfs.ts` prints its directory.
 * The result is cached under the hash of its inputs and never changes afterwards, because running capsules have it
 * mounted as the lower layer of an overlay.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { suite } from "./apt.ts";
import { cached } from "./cached.ts";
import { copyKept, copyLibraries, extractListed, linkBusybox, makeRoot, writePackageList } from "./kept.ts";
import { imagePackages } from "./packages.ts";
import { cacheDir } from "./paths.ts";
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

/**
 * Ensures the root filesystem is in the cache and returns its directory.
 * @throws {import("./run.ts").CommandError} when a package cannot be fetched; the full output is in build/log.
 */
export async function buildRootfs(): Promise<string> {
  const target = join(cacheDir, `rootfs-${await inputsHash()}`);
  return await cached(target, async (scratch) => {
    const debian = join(scratch, "debian");
    const root = join(scratch, "root");
    await extractListed(
      imagePackages.map((entry) => entry.name),
      debian,
    );
    await makeRoot(root, emptyDirectories);
    await symlink("/run", join(root, "var/run"));
    await symlink("/run/lock", join(root, "var/lock"));
    const kept = await copyKept(debian, root, imagePackages);
    await copyLibraries(debian, root, kept);
    await writePackageList(debian, root, imagePackages.length);
    await linkBusybox(root);
    await writeCaBundle(root);
    await clampTimes(root);
    return root;
  });
}

async function inputsHash(): Promise<string> {
  const hash = createHash("sha256").update(suite).update(process.arch).update(String(sourceDate));
  for (const file of ["apt.ts", "kept.ts", "packages.ts", "rootfs.ts"])
    hash.update(await readFile(join(import.meta.dirname, file)));
  return hash.digest("hex").slice(0, 16);
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

if (import.meta.main) console.log(await buildRootfs());
