/** Loop devices (losetup(8)). They are the kernel's own, shared with whoever else uses some on this machine. */
import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { CapsuleError } from "../../errors.ts";
import { runTool, ToolError } from "../../tool.ts";

const major = 7;
const maxTries = 50;

/**
 * Calls `work` with a loop device on a file. The device is told to go with its last user (LOOP_CLR_FD on one that is in
 * use, since Linux 3.7): whatever `work` has mounted keeps it, and no kill leaves it behind for long.
 */
export async function withLoop<T>(file: string, work: (device: string) => Promise<T>): Promise<T> {
  const device = await attach(file);
  try {
    return await work(device);
  } finally {
    await detach(device);
  }
}

async function attach(file: string): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    // Of one that has no node yet it says "/dev/loop8 (lost)".
    const device = (await runTool(["losetup", "--find"])).trim().split(" ")[0] ?? "";
    await ensureNode(device);
    try {
      await runTool(["losetup", device, file]);
      return device;
    } catch (error) {
      // Between the two calls another program may have taken it.
      if (attempt < maxTries && error instanceof ToolError && /busy/i.test(error.stderr)) continue;
      throw new CapsuleError("unavailable", `No loop device could be set up for ${file}.`, {
        cause: error,
        reason: "NO_LOOP_DEVICE",
      });
    }
  }
}

/** In a namespace `/dev` has only what the runner put there: the kernel makes further devices, and nobody their nodes. */
async function ensureNode(device: string): Promise<void> {
  if (existsSync(device)) return;
  const minor = /^\/dev\/loop([0-9]+)$/.exec(device)?.[1];
  if (minor === undefined) throw new CapsuleError("internal", `losetup found "${device}", which is no loop device`);
  await runTool(["mknod", "-m", "600", device, "b", String(major), minor]).catch((error: unknown) => {
    if (!existsSync(device)) throw error;
  });
}

async function detach(device: string): Promise<void> {
  await runTool(["losetup", "--detach", device]).catch((error: unknown) => {
    // Gone already: it was told to go with its last user, and that one has ended.
    if (!(error instanceof ToolError) || !/no such device/i.test(error.stderr)) throw error;
  });
}

/** Makes devices on a file see its new size. */
export async function refreshSize(file: string): Promise<void> {
  for (const device of await devicesOn(file)) await runTool(["losetup", "--set-capacity", device]);
}

/** Devices on this file, whatever path they were set up by. */
export async function devicesOn(file: string): Promise<string[]> {
  const out = await runTool(["losetup", "--noheadings", "--raw", "--output", "NAME", "--associated", file]);
  return out.split("\n").filter((line) => line !== "");
}

/** Tells every device on files of a filesystem to go with its last user: a killed capsuled may have left one that does not. */
export async function detachAllOn(directory: string): Promise<void> {
  const { dev } = await stat(directory);
  for (const name of await readdir("/sys/block")) {
    if (!name.startsWith("loop")) continue;
    const autoclear = await readFile(`/sys/block/${name}/loop/autoclear`, "utf8").catch(() => "1");
    if (autoclear.trim() === "1") continue;
    const device = `/dev/${name}`;
    await ensureNode(device);
    const place = await runTool(["losetup", "--noheadings", "--raw", "--output", "BACK-MAJ:MIN", device]).catch(
      () => "",
    );
    if (place.trim() === deviceNumber(dev)) await detach(device);
  }
}

/** Linux' encoding of a device number (makedev(3)) as losetup writes it. */
function deviceNumber(dev: number): string {
  const value = BigInt(dev);
  const minor = (value & 0xffn) | ((value >> 12n) & 0xffffff00n);
  return `${(value >> 8n) & 0xfffn}:${minor}`;
}
