/**
 * The QEMU that machines run on, and their firmware: those of the suite that the image is made of, wherever it is built.
 * Debian 12 has QEMU 7.2, whose emulation takes a quarter more processor time (docs/benchmarks.md).
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { extractSuite, suite } from "../apt.ts";
import { cacheDir } from "../paths.ts";

const packages = ["qemu-system-x86", "seabios", "ovmf"];
const [loader, triplet] =
  process.arch === "arm64"
    ? ["usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"]
    : ["usr/lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"];

export interface Qemu {
  /** Program and first arguments: it runs with the libraries of its own tree. */
  readonly argv: readonly string[];
  /** Holds OVMF_CODE_4M.fd and OVMF_VARS_4M.fd. */
  readonly firmwareDir: string;
}

/** Ensures it is in the cache. */
export async function buildQemu(): Promise<Qemu> {
  const hash = createHash("sha256")
    .update(suite)
    .update(await readFile(import.meta.filename));
  const target = join(cacheDir, `qemu-${hash.digest("hex").slice(0, 16)}`);
  if (!existsSync(target)) await unpack(target);
  return {
    argv: [
      join(target, loader),
      "--library-path",
      join(target, "usr/lib", triplet),
      join(target, "usr/bin/qemu-system-x86_64"),
      ...["qemu", "seabios"].flatMap((name) => ["-L", join(target, "usr/share", name)]),
    ],
    firmwareDir: join(target, "usr/share/OVMF"),
  };
}

async function unpack(target: string): Promise<void> {
  const scratch = join(cacheDir, `.qemu-${process.pid}`);
  try {
    await extractSuite(packages, scratch);
    await rename(scratch, target).catch((error: NodeJS.ErrnoException) => {
      // Another build was faster; its result is the same.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
