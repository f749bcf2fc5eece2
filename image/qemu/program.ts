/**
 * The QEMU that machines run on, and their firmware: those of the suite that the image is made of, wherever it is built.
 * Debian 12 has QEMU 7.2, whose emulation takes a quarter more processor time (docs/benchmarks.md).
 */
import { join } from "node:path";
import { programTree } from "../program-tree.ts";

export interface Qemu {
  /** Program and first arguments. */
  readonly argv: readonly string[];
  /** Holds OVMF_CODE_4M.fd and OVMF_VARS_4M.fd. */
  readonly firmwareDir: string;
}

/** Ensures it is in the cache. */
export async function buildQemu(): Promise<Qemu> {
  const { root, loader } = await programTree(["qemu-system-x86", "seabios", "ovmf"]);
  const data = ["qemu", "seabios"].flatMap((name) => ["-L", join(root, "usr/share", name)]);
  return {
    argv: [...loader, join(root, "usr/bin/qemu-system-x86_64"), ...data],
    firmwareDir: join(root, "usr/share/OVMF"),
  };
}
