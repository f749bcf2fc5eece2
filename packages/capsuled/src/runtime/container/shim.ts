/**
 * containerd's shim, a process for each container that looks after it. containerd waits for its answers without a limit (1.7,
 * runtime/v2), and so does whoever asks containerd: one that hangs would hold a workload for ever.
 */
import { readdir, readFile } from "node:fs/promises";
import { CapsuleError } from "../../errors.ts";

export const shim = "containerd-shim-runc-v2";

/** For one call, in milliseconds: making a container takes the OCI runtime seconds on a busy machine. */
const answerMs = 30_000;

/**
 * A call that ends, or is about to start, container `id`. When its shim does not answer it is ended, and the container with
 * it (containerd sees to that), and this throws CapsuleError: the next try finds no shim.
 */
export async function askShim<T>(
  id: string,
  call: (options: { readonly signal: AbortSignal }) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const limit = AbortSignal.timeout(answerMs);
  try {
    return await call({ signal: signal === undefined ? limit : AbortSignal.any([signal, limit]) });
  } catch (error) {
    if (!limit.aborted || signal?.aborted === true) throw error;
    await endShims(id);
    const message = `containerd's shim did not answer within ${answerMs / 1_000} s and was ended`;
    throw new CapsuleError("timeout", message, { cause: error, reason: "SHIM_HUNG" });
  }
}

export async function endShims(id: string): Promise<void> {
  for (const pid of await shimsOf(id)) process.kill(pid, "SIGKILL");
}

/** Shims are started as `containerd-shim-runc-v2 … -id ID …`. */
async function shimsOf(id: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^[0-9]+$/.test(name));
  const found: number[] = [];
  for (const pid of pids) {
    const words = (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).split("\0");
    if (words[0]?.endsWith(shim) === true && words[words.indexOf("-id") + 1] === id) found.push(Number(pid));
  }
  return found;
}
