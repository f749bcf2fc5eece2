/** ext4 (e2fsprogs): mke2fs(8), e2fsck(8), resize2fs(8). They take files and block devices alike. */
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { CapsuleError } from "../../errors.ts";
import { runTool, ToolError } from "../../tool.ts";

/** Checking a large disk takes its time. */
const longMs = 12 * 3_600_000;
const formatMs = 30 * 60_000;

export interface FormatOptions {
  /** At most 16 bytes are kept. */
  readonly label: string;
  readonly ownerUid: number;
  readonly ownerGid: number;
  /** Directory with what the filesystem holds at first, owners and attributes included, and how many files that is. */
  readonly content?: { readonly directory: string; readonly files: number };
}

/**
 * Formats. Without the features of the newest e2fsprogs only, so that an exported image can be checked by older ones.
 * No discard: the disk is new and has no blocks yet. It reads as zeros too, and that is told for the base of an image: else each
 * kernel that mounts a copy would write zeros over its inode tables, as blocks of its own. A volume's journal is written, so that its blocks
 * are there when the pool is full.
 */
export async function formatExt4(path: string, { label, ownerUid, ownerGid, content }: FormatOptions): Promise<void> {
  const zeroed = content === undefined ? "" : ",assume_storage_prezeroed=1";
  const extended = `nodiscard,root_owner=${ownerUid}:${ownerGid}${zeroed}`;
  const options = ["-q", "-F", "-t", "ext4", "-m", "1", "-O", "^orphan_file,^metadata_csum_seed", "-E", extended];
  const inodes = Math.ceil((content?.files ?? 0) * 1.5) + 10_000;
  const from = content === undefined ? [] : ["-N", String(inodes), "-d", content.directory];
  await runTool(["mke2fs", ...options, "-L", label.slice(0, 16), ...from, path], "", formatMs);
  const file = await open(path, "r+");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

export interface Superblock {
  readonly sizeBytes: number;
  /** An error was noted while it was in use: it needs `repair`. */
  readonly hasErrors: boolean;
  /** Its journal holds changes: it was not unmounted. */
  readonly needsRecovery: boolean;
  /** 32 hex digits. */
  readonly uuid: string;
}

/** Reads the superblock; undefined when there is no ext4 (Documentation/filesystems/ext4/super.rst). */
export async function readSuperblock(path: string): Promise<Superblock | undefined> {
  const block = Buffer.alloc(1024);
  const file = await open(path, "r");
  try {
    const { bytesRead } = await file.read(block, 0, block.length, 1024);
    return bytesRead < block.length ? undefined : parseSuperblock(block);
  } finally {
    await file.close();
  }
}

export function parseSuperblock(block: Buffer): Superblock | undefined {
  if (block.readUInt16LE(0x38) !== 0xef53) return undefined;
  const incompatible = block.readUInt32LE(0x60);
  const is64bit = (incompatible & 0x80) !== 0;
  const blocks = block.readUInt32LE(0x4) + (is64bit ? block.readUInt32LE(0x150) * 2 ** 32 : 0);
  return {
    sizeBytes: blocks * 1024 * 2 ** block.readUInt32LE(0x18),
    hasErrors: (block.readUInt16LE(0x3a) & 0x2) !== 0,
    needsRecovery: (incompatible & 0x4) !== 0,
    uuid: block.subarray(0x68, 0x78).toString("hex"),
  };
}

/**
 * Grows the mounted filesystem on a device to the size of its disk. False when the kernel does not let capsuled do that:
 * it takes CAP_SYS_RESOURCE, which a capsule in a container of a host may lack. It is grown before the next mount then.
 */
export async function growMounted(device: string): Promise<boolean> {
  try {
    await runTool(["resize2fs", device], "", longMs);
    return true;
  } catch (error) {
    if (error instanceof ToolError && /permission denied to resize/i.test(error.stderr)) return false;
    throw error;
  }
}

/** Grows a filesystem that is not mounted to the size of its disk. Throws `precondition` when it is damaged. */
export async function growUnmounted(path: string, volume: string): Promise<void> {
  await replayJournal(path);
  // resize2fs wants a full check since the last mount; this is one.
  const { state, report } = await checkExt4(path);
  if (state !== "clean") throw damaged(volume, report);
  await runTool(["resize2fs", "-f", path], "", longMs);
}

export interface CheckResult {
  /** clean: nothing was wrong. repaired: something was, and is not any more. damaged: something still is. */
  readonly state: "clean" | "repaired" | "damaged";
  /** What e2fsck said, for people. */
  readonly report: string;
}

/** Looks at everything and changes nothing, not even the journal. */
export async function checkExt4(path: string): Promise<CheckResult> {
  return await fsck(["-f", "-n", path]);
}

/** Writes what the journal holds to its place: what a mount would do. */
export async function replayJournal(path: string): Promise<CheckResult> {
  return await fsck(["-p", "-E", "journal_only", path]);
}

/**
 * Looks through a filesystem that has noted an error while it was in use (a failed write of a full pool, for one), and takes the
 * note away when nothing is wrong. Nothing else changes but what the journal holds: what is wrong stays so.
 */
export async function clearErrors(path: string): Promise<CheckResult> {
  await replayJournal(path);
  const found = await checkExt4(path);
  return found.state === "clean" ? await fsck(["-f", "-p", path]) : found;
}

/** Repairs everything that can be, answering yes to each question. */
export async function repairExt4(path: string): Promise<CheckResult> {
  return await fsck(["-f", "-y", path]);
}

/** How often a device that somebody else has open is tried again, and how long after; in milliseconds. */
const busyTries = 25;
const busyMs = 200;

/**
 * A device may be in use for a moment after its last mount or snapshot has gone: that says nothing about what it holds, so
 * it is tried again, and told as what it is. (Seen once with lvm-thin: a repair right after its snapshot.)
 */
async function fsck(args: readonly string[]): Promise<CheckResult> {
  for (let tries = 1; ; tries++) {
    const result = await fsckOnce(args);
    if (result !== "inUse") return result;
    if (tries === busyTries)
      throw new CapsuleError("unavailable", `${args.at(-1)} is in use by something else. Try again.`, {
        reason: "DISK_IN_USE",
      });
    await sleep(busyMs);
  }
}

/** e2fsck(8), "EXIT CODE": 1 corrected, 2 corrected and to be rebooted, 4 left uncorrected; above, it could not work. */
async function fsckOnce(args: readonly string[]): Promise<CheckResult | "inUse"> {
  try {
    return { state: "clean", report: summary(await runTool(["e2fsck", ...args], "", longMs)) };
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    const code = error.code ?? 0;
    const report = summary(`${error.stdout}${error.stderr}`);
    if (code === 0 || code >= 16) throw error;
    // Words of e2fsck for EBUSY at an exclusive open (unix.c, "is in use").
    if (code === 8 && / is in use\.?$/m.test(report)) return "inUse";
    // 8: no superblock that it could begin with.
    if (code >= 4) return { state: "damaged", report };
    return { state: "repaired", report };
  }
}

/** The lines that say something, at most 40 of them. */
function summary(text: string): string {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !/^(e2fsck [0-9]|Pass [0-9])/.test(line));
  return lines.length <= 40
    ? lines.join("\n")
    : [...lines.slice(0, 40), `… and ${lines.length - 40} more lines`].join("\n");
}

/** As an error of a workload or a call: what is wrong with which volume, and what to do. */
export function damaged(volume: string, report: string): CapsuleError {
  const first = report.split("\n").slice(0, 3).join("; ");
  return new CapsuleError(
    "precondition",
    `The filesystem of volume "${volume}" is damaged and was not touched: ${first}. ` +
      `\`capsulectl volume snapshot ${volume}\` keeps it as it is, then \`capsulectl volume repair ${volume}\` repairs it.`,
    { reason: "FILESYSTEM_DAMAGED", metadata: { volume } },
  );
}
