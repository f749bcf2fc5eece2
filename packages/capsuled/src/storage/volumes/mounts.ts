/** Mounts of volumes on the capsule: one for each, at /run/capsule/volumes/UID, from where workloads get it. */
import { lstat, mkdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { CapsuleError } from "../../errors.ts";
import { ToolError } from "../../tool.ts";
import { extentBytes, volumeMount } from "../layout.ts";
import type { DiskId, PoolBackend } from "../pool/backend.ts";
import { checkExt4, damaged, growUnmounted, readSuperblock } from "../tools/ext4.ts";
import { isMounted, mount, unmount } from "../tools/mount.ts";

/**
 * No device files and no set-id bits: a volume holds data, and may come from elsewhere. With `discard` the pool gets back
 * what is deleted. After an error nothing more is written.
 */
const options = "noatime,discard,nosuid,nodev,errors=remount-ro";

/**
 * Mounts a volume unless it is mounted; the kernel replays its journal. Throws `precondition` with the words of e2fsck when
 * its filesystem is damaged: nothing is repaired without being asked for.
 */
export async function mountVolume(backend: PoolBackend, volume: string, uid: string, disk: DiskId): Promise<string> {
  const target = volumeMount(uid);
  if (await isMounted(target)) return target;
  const path = await backend.pathOf(disk);
  const found = await readSuperblock(path);
  if (found === undefined || found.hasErrors) throw damaged(volume, (await checkExt4(path)).report);
  const disks = await backend.list();
  const sizeBytes = disks.find((one) => one.uid === disk.uid)?.sizeBytes ?? 0;
  // What could not be grown while it was mounted.
  if (found.sizeBytes + extentBytes <= sizeBytes) await growUnmounted(path, volume);
  await mkdir(target, { recursive: true, mode: 0o700 });
  try {
    await backend.withDevice(disk, (device) => mount("ext4", options, device, target));
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    const { state, report } = await checkExt4(path);
    if (state === "damaged") throw damaged(volume, report);
    throw error;
  }
  // Programs that want an empty directory would not take this one (initdb). e2fsck makes it when it needs it; what it
  // has put there stays.
  await rmdir(join(target, "lost+found")).catch(() => undefined);
  return target;
}

/** Writes everything to the disk and unmounts. Throws `conflict` while a process has something open in it. */
export async function unmountVolume(uid: string): Promise<void> {
  const target = volumeMount(uid);
  await unmount(target);
  await rmdir(target).catch(() => undefined);
}

/**
 * The directory of a volume that a workload gets. It is made when it is not there and may be. No part of it may be a link:
 * who writes to a volume must not choose what of the capsule is mounted. Nobody else writes while this runs: a volume has
 * one mounter, and that one is being started.
 */
export async function directoryIn(target: string, subPath: string, readOnly: boolean, volume: string): Promise<string> {
  let path = target;
  for (const part of subPath.split("/").filter((one) => one !== "" && one !== ".")) {
    path = join(path, part);
    const seen = await lstat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    if (seen === undefined && readOnly) throw noDirectory(volume, subPath, "has no directory");
    if (seen === undefined) await mkdir(path, { mode: 0o755 });
    else if (!seen.isDirectory())
      throw noDirectory(volume, subPath, "has something else than a directory on the way to");
  }
  return path;
}

function noDirectory(volume: string, subPath: string, what: string): CapsuleError {
  return new CapsuleError("precondition", `Volume "${volume}" ${what} "${subPath}" (subPath).`, {
    reason: "NO_SUB_PATH",
    metadata: { volume },
  });
}
