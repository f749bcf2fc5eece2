/**
 * What containerd 1.7 forgets when the caller of Tasks.Create goes away in the middle (capsuled was killed): the bundle
 * directory, its mount, sometimes a shim. It knows no task then, and refuses to make one ("mkdir …: file exists") until it
 * is restarted. The same is done here as it does at its own start (runtime/v2, cleanup of dead shims), for one container.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { NAMESPACE } from "./client.ts";
import { endShims, shim } from "./shim.ts";

const run = promisify(execFile);
const bundles = `/run/containerd/io.containerd.runtime.v2.task/${NAMESPACE}`;
const work = `/perm/containerd/io.containerd.runtime.v2.task/${NAMESPACE}`;
const deleteTimeoutMs = 10_000;

export function isAbandoned(id: string): boolean {
  return existsSync(join(bundles, id));
}

/** Removes it. Only for a container of which containerd has no task. */
export async function removeAbandoned(id: string): Promise<void> {
  const bundle = join(bundles, id);
  await endShims(id);
  // Ends the container, if the runtime has one, and unmounts its root; it fails when there is nothing of either.
  const args = [
    "-namespace",
    NAMESPACE,
    "-id",
    id,
    "-bundle",
    bundle,
    "-address",
    "/run/containerd/containerd.sock",
    "delete",
  ];
  await run(shim, args, { cwd: bundle, timeout: deleteTimeoutMs, killSignal: "SIGKILL" }).catch(() => undefined);
  await run("umount", [join(bundle, "rootfs")]).catch(() => undefined);
  await rm(bundle, { recursive: true, force: true });
  await rm(join(work, id), { recursive: true, force: true });
}
