/** Mounts (mount(8), umount(8), proc_pid_mountinfo(5)). */

import { constants } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { CapsuleError } from "../../errors.ts";
import { runTool, ToolError } from "../../tool.ts";

export interface MountEntry {
  readonly target: string;
  readonly source: string;
  readonly type: string;
  /** Of the filesystem, not of this mount of it. */
  readonly readOnly: boolean;
}

/** A disk that answers slowly is not a fault yet. */
const timeoutMs = 120_000;

/** What is mounted below a directory, or on it. */
export async function mountsBelow(directory: string): Promise<MountEntry[]> {
  const found: MountEntry[] = [];
  for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
    const [before, after] = line.split(" - ");
    const target = unescaped(before?.split(" ")[4] ?? "");
    if (after === undefined || !(target === directory || target.startsWith(`${directory}/`))) continue;
    const [type = "", source = "", options = ""] = after.split(" ");
    found.push({ target, source: unescaped(source), type, readOnly: options.split(",").includes("ro") });
  }
  return found;
}

export async function isMounted(target: string): Promise<boolean> {
  return (await mountsBelow(target)).some((one) => one.target === target);
}

/** Throws ToolError when the kernel refuses the filesystem. */
export async function mount(type: string, options: string, device: string, target: string): Promise<void> {
  await runTool(["mount", "-t", type, "-o", options, device, target], "", timeoutMs);
}

/**
 * Writes everything to the disk, then unmounts. Nothing happens when nothing is mounted there. Throws `conflict` while a
 * process of the capsule has something open in it.
 */
export async function unmount(target: string): Promise<void> {
  if (!(await isMounted(target))) return;
  // The last mount would write it all by itself; this is not always the last (a container's may take a moment to go).
  await runTool(["sync", "-f", target], "", timeoutMs);
  try {
    await runTool(["umount", target], "", timeoutMs);
  } catch (error) {
    if (!(await isMounted(target))) return;
    if (!(error instanceof ToolError) || !/busy/i.test(error.stderr)) throw error;
    throw new CapsuleError("conflict", `${target} is in use by a process on the capsule.`, {
      cause: error,
      reason: "MOUNT_BUSY",
    });
  }
}

/** Whether the kernel has a block device mounted or mapped, in whatever namespace (open(2), O_EXCL). */
export async function isClaimed(device: string): Promise<boolean> {
  try {
    await (await open(device, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") return true;
    throw error;
  }
}

/** Blanks and the like are octal there. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
