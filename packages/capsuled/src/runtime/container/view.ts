/** The root filesystem of an image as a directory: a view of containerd's snapshots, mounted for as long as it is needed. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Code } from "@connectrpc/connect";
import { CapsuleError } from "../../errors.ts";
import type { Mount } from "../../gen/containerd/github.com/containerd/containerd/api/types/mount_pb.js";
import { type Containerd, isCode, orUndefined, SNAPSHOTTER, translated } from "./client.ts";

const run = promisify(execFile);
const viewsDir = "/run/capsule/views";

export async function withView<T>(
  client: Containerd,
  chainId: string,
  work: (directory: string) => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  const key = `view-${randomBytes(8).toString("hex")}`;
  // Nothing refers to it: without the label the garbage collection takes it, which is what should become of one that a
  // kill has left; the expiry does that.
  const expires = new Date(Date.now() + 3_600_000).toISOString();
  const labels = { "containerd.io/gc.root": new Date().toISOString(), "containerd.io/gc.expire": expires };
  const request = { snapshotter: SNAPSHOTTER, key, parent: chainId, labels };
  let mounts: Mount[];
  try {
    mounts = (await client.snapshots.view(request, { signal })).mounts;
  } catch (error) {
    if (isCode(error, Code.NotFound))
      throw new CapsuleError("notFound", "The image is not unpacked on the capsule: push or pull it again.", {
        cause: error,
      });
    throw translated(error, "Looking into the image");
  }
  const directory = join(viewsDir, key);
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await mountView(mounts, directory);
    return await work(directory);
  } finally {
    await run("umount", [directory]).catch(() => undefined);
    await rmdir(directory).catch(() => undefined);
    await orUndefined(client.snapshots.remove({ snapshotter: SNAPSHOTTER, key }));
  }
}

async function mountView(mounts: readonly Mount[], target: string): Promise<void> {
  const [mount] = mounts;
  if (mount === undefined || mounts.length > 1) throw new CapsuleError("internal", "a view of an image is one mount");
  const { type, source, options } = mount;
  if (type === "bind") {
    await run("mount", ["--bind", source, target]);
    await run("mount", ["-o", "remount,bind,ro", target]);
  } else await run("mount", ["-t", type, "-o", ["ro", ...options].join(","), source, target]);
}

/** Unmounts what a killed capsuled has left. */
export async function cleanViews(): Promise<void> {
  for (const name of await readdir(viewsDir).catch(() => [])) {
    await run("umount", [join(viewsDir, name)]).catch(() => undefined);
    await rmdir(join(viewsDir, name)).catch(() => undefined);
  }
}
