/**
 * Root filesystems of containers with a user namespace. Overlayfs of this generation has no mapped mounts that containerd
 * 1.7 would use, so every file of the snapshot is given to the shifted owner once, when it is created. With `metacopy`
 * the kernel copies only the inode, not the content (Documentation/filesystems/overlayfs.rst).
 */
import { execFile } from "node:child_process";
import { chmod, lchown, lstat, mkdir, opendir, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { CapsuleError } from "../../errors.ts";
import type { Mount } from "../../gen/containerd/github.com/containerd/containerd/api/types/mount_pb.js";
import type { IdRange } from "./spec.ts";

const run = promisify(execFile);
const scratch = "/run/capsule/shift";

/** Shifts the owners of all files of a snapshot that is mounted nowhere. A cut one is started anew with its snapshot. */
export async function shiftOwners(uid: string, mounts: readonly Mount[], ids: IdRange): Promise<void> {
  const [mount] = mounts;
  if (mount?.type !== "overlay") throw new CapsuleError("internal", "the snapshot is no overlay");
  const target = join(scratch, uid);
  await mkdir(target, { recursive: true, mode: 0o700 });
  await run("umount", [target]).catch(() => undefined); // of a try that was cut
  const options = shiftedMounts([mount])[0]?.options ?? [];
  await run("mount", ["-t", "overlay", "-o", options.join(","), "overlay", target]);
  try {
    await shift(target, ids);
  } finally {
    await run("umount", [target]);
    await rm(target, { recursive: false, force: true }).catch(() => undefined);
  }
}

/** The mounts of a shifted snapshot: without `metacopy` the kernel refuses the inodes that have no content of their own. */
export function shiftedMounts(mounts: readonly Mount[]): Mount[] {
  return mounts.map((mount) => ({ ...mount, options: [...mount.options, "metacopy=on"] }));
}

/** Nothing runs in the tree, so no entry changes under the walk; links are never followed. */
async function shift(path: string, ids: IdRange): Promise<void> {
  const { uid, gid, mode } = await lstat(path);
  const shifted = (id: number): number => {
    if (id < ids.size) return ids.first + id;
    throw new CapsuleError(
      "precondition",
      `The image has a file of owner ${id}, beyond the ${ids.size} ids of a user namespace.`,
    );
  };
  await lchown(path, shifted(uid), shifted(gid));
  const isLink = (mode & 0o170000) === 0o120000;
  // The kernel takes setuid and setgid away with a new owner.
  if (!isLink && (mode & 0o6000) !== 0) await chmod(path, mode & 0o7777);
  if ((mode & 0o170000) !== 0o040000) return;
  for await (const entry of await opendir(path)) await shift(join(path, entry.name), ids);
}
