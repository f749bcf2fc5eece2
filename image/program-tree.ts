/** Programs of the suite that the image is made of, to run on this host: each with the libraries of its own tree. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { extractSuite, suite } from "./apt.ts";
import { cached } from "./cached.ts";
import { cacheDir } from "./paths.ts";

const [loader, triplet] =
  process.arch === "arm64"
    ? ["usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"]
    : ["usr/lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"];

export interface ProgramTree {
  readonly root: string;
  /** The dynamic loader with its options: the path of a program follows. */
  readonly loader: readonly string[];
}

/** Ensures that the packages, with all that they depend on, are unpacked in the cache. */
export async function programTree(packages: readonly string[]): Promise<ProgramTree> {
  const key = createHash("sha256")
    .update(`${suite} ${packages.join(" ")}`)
    .digest("hex")
    .slice(0, 16);
  const root = join(cacheDir, `programs-${key}`);
  await cached(root, async (scratch) => {
    await extractSuite(packages, scratch);
    return scratch;
  });
  return { root, loader: [join(root, loader), "--library-path", join(root, "usr/lib", triplet)] };
}
