/** Where the system can be installed. Pure: disks and what is on them come in as data. */
import { LayoutError, layoutOf } from "../../../../image/disk/layout.ts";
import { CapsuleError } from "../errors.ts";
import type { Contents } from "./contents.ts";
import type { Disk } from "./disks.ts";

export interface Target {
  readonly disk: Disk;
  readonly contents: Contents;
  /** Why the system cannot be installed there; empty when it can. */
  readonly obstacle: string;
  /** What has to be typed before anything is lost; empty when nothing would be. */
  readonly confirmation: string;
}

/** What the installer was started from. */
export interface Medium {
  /** Such as "/dev/sda". */
  readonly disk: string;
  /** Of its slots, which are those of what it installs. */
  readonly slotBytes: number;
}

/** Why a disk can never be a target, whatever is on it; empty when it can. */
export function obstacleOf(disk: Disk, medium: Medium): string {
  if (disk.path === medium.disk) return "the installer runs from it";
  if (disk.transport === "usb") return "it is on USB: only a disk inside the machine is installed to";
  if (disk.removable) return "its medium is removable: only a disk inside the machine is installed to";
  if (disk.readOnly) return "it is read-only";
  if (disk.sectorBytes !== 512) return `its sectors have ${disk.sectorBytes} bytes, and only 512 are supported`;
  try {
    layoutOf(disk.sizeBytes, medium.slotBytes);
    return "";
  } catch (error) {
    if (error instanceof LayoutError) return error.message;
    throw error;
  }
}

export function targetOf(disk: Disk, contents: Contents, isBusy: boolean, medium: Medium): Target {
  const lasting = obstacleOf(disk, medium);
  const users = disk.users.join(", ");
  const inUse = users === "" ? "another program has it open" : users;
  const obstacle = lasting === "" && (isBusy || users !== "") ? `it is in use: ${inUse}` : lasting;
  return { disk, contents, obstacle, confirmation: confirmationOf(disk, contents) };
}

function confirmationOf(disk: Disk, { kind }: Contents): string {
  if (kind === "blank" || kind === "unfinished") return "";
  return disk.serial === "" ? disk.path.replace("/dev/", "") : disk.serial;
}

/** What the operator wants. */
export interface Wanted {
  readonly path: string;
  readonly reinstall: boolean;
  readonly erase: string;
}

/** The target that is meant. Throws CapsuleError when it is none, or something on it would be lost that was not given up. */
export function checkedTarget(targets: readonly Target[], { path, reinstall, erase }: Wanted): Target {
  const target = targets.find(({ disk }) => disk.path === path);
  if (target === undefined)
    throw new CapsuleError(
      "notFound",
      `This machine has no disk ${path}: ${targets.map(({ disk }) => disk.path).join(", ") || "none"} is there.`,
      {
        reason: "NO_SUCH_DISK",
      },
    );
  const { contents, obstacle, confirmation } = target;
  if (obstacle !== "")
    throw new CapsuleError("precondition", `${path} cannot be installed to: ${obstacle}.`, {
      reason: "UNUSABLE_DISK",
    });
  if (contents.kind === "capsule" && !reinstall)
    throw new CapsuleError(
      "precondition",
      `${path} holds a capsule, which would be lost with its workloads and volumes. Give --reinstall if that is meant.`,
      { reason: "HOLDS_CAPSULE" },
    );
  if (confirmation !== "" && erase !== confirmation)
    throw new CapsuleError(
      "precondition",
      erase === ""
        ? `${path} is not blank (${contents.description}). Everything on it would be lost: that is confirmed by "${confirmation}".`
        : `${path} is confirmed by "${confirmation}", and not by "${erase.slice(0, 80)}": is it the disk that is meant?`,
      { reason: "NOT_CONFIRMED", metadata: { confirmation } },
    );
  return target;
}
