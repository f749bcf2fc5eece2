/** The repair of `/perm` that a person asked for (e2fsck(8)). Never formats. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { CapsuleError } from "../../errors.ts";

/** e2fsck(8), exit codes: bits. Below 4 the filesystem is whole afterwards. */
const uncorrected = 4;

/**
 * Yields what e2fsck says, line by line. With `dryRun` nothing is written. Only for a filesystem that is not mounted.
 * Throws CapsuleError when the filesystem is still damaged afterwards; not of a dry run, whose lines tell.
 */
export async function* repairFilesystem(device: string, dryRun: boolean): AsyncGenerator<string> {
  // -f: also when it is marked clean. -y: a backup of the superblock is found and used too.
  const child = spawn("e2fsck", ["-f", dryRun ? "-n" : "-y", device], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C" },
  });
  const ended = once(child, "close");
  let errors = "";
  child.stderr.on("data", (data: Buffer) => {
    errors = (errors + data.toString("utf8")).slice(-4_096);
  });
  try {
    yield* createInterface({ input: child.stdout });
  } finally {
    // Also when the caller goes: a repair that was begun is finished, and must not wait for somebody who reads it.
    child.stdout.resume();
  }
  const [code] = (await ended) as [number | null];
  for (const line of errors.split("\n").filter((text) => text.trim() !== "")) yield line;
  if (!dryRun && (code === null || code >= uncorrected))
    throw new CapsuleError(
      "precondition",
      `e2fsck could not repair ${device} (code ${code ?? "none"}). The data may still be read from another system: make a copy of the disk before anything else is tried.`,
      { reason: "NOT_REPAIRED" },
    );
}
