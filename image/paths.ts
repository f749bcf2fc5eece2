import { join } from "node:path";

/** Root of the checkout. */
export const repositoryRoot = join(import.meta.dirname, "..");

/** Everything generated lives below here; `make clean` removes it. */
export const buildDir = join(repositoryRoot, "build");

/** Downloads and results that are kept between builds, keyed by their inputs. */
export const cacheDir = join(buildDir, "cache");
