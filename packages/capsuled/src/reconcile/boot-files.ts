/** The kernel and initramfs of a machine that boots its own: copied from volumes, so that its monitor sees nothing else of them. */
import { constants, createWriteStream } from "node:fs";
import { lstat, mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { CapsuleError } from "../errors.ts";
import type { BootFiles } from "../runtime/instance.ts";
import { kernelFault, kernelHeadBytes } from "../runtime/microvm/kernel-format.ts";
import type { OwnKernel, VolumePath } from "../workload/own-kernel.ts";

/** Whoever can read a volume. */
export interface VolumeReader {
  read<T>(volume: string, work: (dir: string) => Promise<T>): Promise<T>;
}

/** A kernel with all that Debian knows has 50 MB, an initramfs with it a few hundred. */
const maxBytes = 1024 ** 3;

/**
 * Copies them into `dir`, in the place of what is there. Throws CapsuleError `precondition` when one of them is missing, or the kernel is
 * none for this machine; as `volumes.read` otherwise.
 */
export async function copyBootFiles(
  { kernel, initramfs, onlyElf }: Pick<OwnKernel, "kernel" | "initramfs" | "onlyElf">,
  dir: string,
  volumes: VolumeReader,
): Promise<Omit<BootFiles, "args">> {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true, mode: 0o755 });
  await copyOne(kernel, join(dir, "kernel"), volumes);
  const fault = kernelFault(await headOf(join(dir, "kernel")), onlyElf);
  if (fault !== undefined) throw unusable(kernel, fault, "NO_KERNEL");
  if (initramfs !== undefined) await copyOne(initramfs, join(dir, "initramfs"), volumes);
  return { dir, kernel: "kernel", initramfs: initramfs === undefined ? undefined : "initramfs" };
}

async function copyOne(from: VolumePath, to: string, volumes: VolumeReader): Promise<void> {
  await volumes.read(from.volume, async (root) => {
    const file = await openIn(root, from);
    try {
      const { size } = await file.stat();
      if (size > maxBytes)
        throw unusable(from, `has ${size} bytes, more than the ${maxBytes} that are read`, "TOO_LARGE");
      await pipeline(file.createReadStream({ autoClose: false }), createWriteStream(to, { mode: 0o644 }));
    } finally {
      await file.close();
    }
  });
}

/**
 * Opens a file of a volume. No part of its path may be a link: who writes to a volume must not choose what of the capsule is
 * read.
 */
async function openIn(root: string, from: VolumePath): Promise<Awaited<ReturnType<typeof open>>> {
  const parts = from.path.split("/");
  let path = root;
  for (const [i, part] of parts.entries()) {
    path = join(path, part);
    const seen = await lstat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
      throw error;
    });
    if (seen === undefined) throw unusable(from, "does not exist", "NO_SUCH_FILE");
    if (seen.isSymbolicLink()) throw unusable(from, "is a link, or behind one: name what it points to", "IS_A_LINK");
    if (i === parts.length - 1 ? !seen.isFile() : !seen.isDirectory())
      throw unusable(from, "is no file", "NO_SUCH_FILE");
  }
  return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
}

async function headOf(path: string): Promise<Buffer> {
  const file = await open(path, "r");
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(kernelHeadBytes), 0, kernelHeadBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

function unusable({ volume, path }: VolumePath, what: string, reason: string): CapsuleError {
  return new CapsuleError("precondition", `${volume}/${path} ${what}`, { reason, metadata: { volume } });
}
