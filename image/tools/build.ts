/**
 * The tool image of `capsule debug`: a root filesystem of its own, unpacked in the image at /usr/lib/capsule/tools. As a tree
 * it needs no import and no room on the disk, and what it has in common with the capsule's own root lies in the squashfs
 * once (docs/decisions.md). `node image/tools/build.ts` prints its directory.
 */
import { createHash } from "node:crypto";
import { copyFile, cp, mkdir, open, readdir, readFile, stat, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { suite } from "../apt.ts";
import { cached } from "../cached.ts";
import {
  contentsOf,
  copyKept,
  copyLibraries,
  extractListed,
  linkBusybox,
  makeRoot,
  writePackageList,
} from "../kept.ts";
import type { ImagePackage } from "../packages.ts";
import { cacheDir } from "../paths.ts";
import { clampTimes, sourceDate } from "../source-date.ts";
import { links, toolPackages } from "./packages.ts";

/** Where a debug session mounts what it shows of the capsule: its root is read-only, so they must be there. */
const emptyDirectories: readonly (readonly [path: string, mode: number])[] = [
  ...(["dev", "host", "mnt", "perm", "proc", "run", "sys", "var"] as const).map((name) => [name, 0o755] as const),
  ["root", 0o700],
  ["tmp", 0o1777],
];

const files = join(import.meta.dirname, "files");
/** Of the capsule itself: how names are found, and the LVM that it uses. */
const capsuleFiles = join(import.meta.dirname, "../files");
const shared = ["etc/group", "etc/nsswitch.conf", "etc/lvm/lvm.conf"] as const;

/** Ensures that it is in the cache and returns its directory. Throws CommandError when a package cannot be fetched. */
export async function buildTools(): Promise<string> {
  return await cached(join(cacheDir, `tools-${await inputsHash()}`), async (scratch) => {
    const debian = join(scratch, "debian");
    const root = join(scratch, "root");
    await extractListed(
      toolPackages.map(({ name }) => name),
      debian,
    );
    await makeRoot(root, emptyDirectories);
    await copyLibraries(debian, root, await copyKept(debian, root, await keptPackages(debian)));
    await writePackageList(debian, root, toolPackages.length);
    for (const path of shared) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await copyFile(join(capsuleFiles, path), join(root, path));
    }
    await cp(files, root, { recursive: true });
    for (const [path, target] of Object.entries(links)) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await symlink(target, join(root, path));
    }
    await linkBusybox(root);
    await clampTimes(root);
    return root;
  });
}

/** What is kept of each package, path by path. */
async function keptPackages(debian: string): Promise<ImagePackage[]> {
  const contents = new Map([...(await contentsOf(debian))].map(([{ name }, paths]) => [name, paths]));
  const kept: ImagePackage[] = [];
  for (const { name, programs, keep = [] } of toolPackages) {
    const own: string[] = [];
    for (const path of contents.get(name) ?? []) {
      const program = /^usr\/s?bin\/([^/]+)$/.exec(path)?.[1];
      if (program === undefined || programs?.includes(program) === false) continue;
      if (programs !== undefined || (await isRunnable(join(debian, path)))) own.push(path);
    }
    // A name that is gone from Debian is told, not left out.
    if (programs !== undefined && own.length !== programs.length)
      throw new Error(`package ${name} has not all of: ${programs.join(", ")} (see image/tools/packages.ts)`);
    kept.push({ name, reason: "debug", keep: [...own, ...keep] });
  }
  return kept;
}

/** Not a script of Perl or Python. */
async function isRunnable(path: string): Promise<boolean> {
  // A link to what another package has.
  if (!(await stat(path).catch(() => undefined))?.isFile()) return false;
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(64), 0, 64, 0);
    const head = buffer.subarray(0, bytesRead).toString("latin1");
    return !head.startsWith("#!") || /^#! ?\/(usr\/)?bin\/(ba)?sh\b/.test(head);
  } finally {
    await file.close();
  }
}

async function inputsHash(): Promise<string> {
  const hash = createHash("sha256").update(suite).update(process.arch).update(String(sourceDate));
  const here = import.meta.dirname;
  const own = (await readdir(files, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  for (const path of [
    ...["../apt.ts", "../kept.ts", "packages.ts", "build.ts"].map((file) => join(here, file)),
    ...shared.map((file) => join(capsuleFiles, file)),
    ...own.map((entry) => join(entry.parentPath, entry.name)).sort(),
  ])
    hash.update(await readFile(path));
  return hash.digest("hex").slice(0, 16);
}

if (import.meta.main) console.log(await buildTools());
