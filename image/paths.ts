import { join } from "node:path";

/** Root of the checkout. */
export const repositoryRoot = join(import.meta.dirname, "..");

/** Everything generated lives below here; `make clean` removes it. */
export const buildDir = join(repositoryRoot, "build");

/** Downloads and results that are kept between builds, keyed by their inputs; $CAPSULE_CACHE names another place. */
export const cacheDir = process.env["CAPSULE_CACHE"] ?? join(buildDir, "cache");
