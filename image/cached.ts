/** What a build makes once and keeps: trees and files of the cache, each whole under its name or not there. */
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { cacheDir } from "./paths.ts";

/**
 * Ensures that `target`, a path in the cache, is there, and returns it. `make` gets the path of a scratch directory that it may
 * make, and returns what in it is kept.
 */
export async function cached(target: string, make: (scratch: string) => Promise<string>): Promise<string> {
  if (existsSync(target)) return target;
  const scratch = join(cacheDir, `.${basename(target)}-${process.pid}`);
  try {
    await mkdir(cacheDir, { recursive: true });
    await rename(await make(scratch), target).catch((error: NodeJS.ErrnoException) => {
      // Another build was faster; its result is the same.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
    return target;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
