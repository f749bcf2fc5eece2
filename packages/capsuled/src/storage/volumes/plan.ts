/**
 * Decides the next step of one volume. Pure: what is wanted and what was seen come in as data. One step at a time; after
 * it the world is looked at again, so that a step may be cut at any point. Two rules come before all others: what holds
 * data and is not being deleted is never removed, and an empty disk never takes the place of a lost one.
 */
import { VolumePhase } from "@capsule/api";
import { extentBytes } from "../layout.ts";
import type { Disk } from "../pool/backend.ts";

export interface Wanted {
  readonly deleting: boolean;
  /** The disk has been whole before: its absence is a loss. */
  readonly provisioned: boolean;
  /** Whole extents. */
  readonly sizeBytes: number;
  /** Name that its disk has when everything is done. */
  readonly diskName: string;
}

export interface Seen {
  /** The volume's own disk, under whatever name. */
  readonly disk: Disk | undefined;
  /** Another disk that has the volume's name: of a snapshot (since a restore) with the name that it should have, or nobody's. */
  readonly squatter: { readonly disk: Disk; readonly moveTo: string | undefined } | undefined;
  /** What the disk holds; undefined when that is no ext4, or nobody needs to know. */
  readonly filesystem: SeenFilesystem | undefined;
  readonly mounted: boolean;
  /** Those who use it now, for people: workloads that run, copies, checks. */
  readonly holders: readonly string[];
  /** Rows of snapshots that it has: they are deleted before it is. */
  readonly snapshots: number;
  /** A microVM has its disk, or may have: the filesystem is that one's alone. */
  readonly attached: boolean;
  /** The kernel would not grow it while it is mounted. */
  readonly growsUnmountedOnly: boolean;
}

export interface SeenFilesystem {
  readonly sizeBytes: number;
  /** It has noted an error since it was last looked through. */
  readonly hasErrors: boolean;
  /** What e2fsck then found; undefined when it was not looked through yet. */
  readonly damage: string | undefined;
}

export type Step =
  | { readonly kind: "none" }
  | { readonly kind: "create"; readonly sizeBytes: number }
  /** Removes a disk that was not finished, and was never promised to hold anything. */
  | { readonly kind: "discard"; readonly disk: Disk }
  /** Gives a disk that has the volume's name the one that it should have. */
  | { readonly kind: "move"; readonly disk: Disk; readonly name: string }
  /** Makes the volume's disk whole, under the volume's name. */
  | { readonly kind: "place"; readonly disk: Disk }
  /** Notes that the disk is whole. */
  | { readonly kind: "provision" }
  | { readonly kind: "growDisk"; readonly disk: Disk; readonly sizeBytes: number }
  | { readonly kind: "growFilesystem"; readonly disk: Disk }
  /** Looks through a filesystem that has noted an error: a failed write is often all there was. */
  | { readonly kind: "verify"; readonly disk: Disk }
  | { readonly kind: "unmount" }
  | { readonly kind: "removeDisk"; readonly disk: Disk }
  | { readonly kind: "removeSnapshots" }
  /** Nothing is left of a deleted volume: its record goes. */
  | { readonly kind: "forget" };

export interface Plan {
  readonly step: Step;
  readonly phase: VolumePhase;
  /** Why, for people; never empty. */
  readonly message: string;
}

export function plan(wanted: Wanted, seen: Seen): Plan {
  if (wanted.deleting) return planDeleted(seen);
  return wanted.provisioned ? planKept(wanted, seen) : planNew(wanted, seen);
}

const none: Step = { kind: "none" };

function planDeleted({ disk, mounted, holders, snapshots }: Seen): Plan {
  const deleting = (step: Step, message: string): Plan => ({ step, phase: VolumePhase.DELETING, message });
  if (holders.length > 0) return deleting(none, `Deleted when it is no longer used by ${holders.join(", ")}`);
  if (mounted) return deleting({ kind: "unmount" }, "Unmounting, to be deleted");
  if (disk !== undefined) return deleting({ kind: "removeDisk", disk }, "Removing its disk");
  if (snapshots > 0) return deleting({ kind: "removeSnapshots" }, "Removing its snapshots");
  return deleting({ kind: "forget" }, "Removing the last of it");
}

function planNew(wanted: Wanted, { disk, squatter }: Seen): Plan {
  const pending = (step: Step, message: string): Plan => ({ step, phase: VolumePhase.PENDING, message });
  if (disk?.whole === true) return pending({ kind: "provision" }, "Made");
  if (disk !== undefined) return pending({ kind: "discard", disk }, "Removing what an unfinished try has left");
  const inTheWay = makeRoom(wanted, squatter, VolumePhase.PENDING);
  if (inTheWay !== undefined) return inTheWay;
  return pending({ kind: "create", sizeBytes: wanted.sizeBytes }, "Making its disk and filesystem");
}

function planKept(wanted: Wanted, seen: Seen): Plan {
  const { disk, filesystem, mounted, holders } = seen;
  if (disk === undefined) {
    const message = `Its disk ${wanted.diskName} is not in the pool. Nothing is made in its place: bring the disk back, or restore a snapshot or an export under another name`;
    return { step: none, phase: VolumePhase.MISSING, message };
  }
  const ready = (step: Step, message: string): Plan => ({ step, phase: VolumePhase.READY, message });
  if (disk.name !== wanted.diskName || !disk.whole) {
    return makeRoom(wanted, seen.squatter, VolumePhase.PENDING) ?? placing(disk);
  }
  if (filesystem === undefined) {
    const message = "Its disk holds no ext4 filesystem: `capsulectl volume check` tells more";
    return { step: none, phase: VolumePhase.FAILED, message };
  }
  if (disk.sizeBytes < wanted.sizeBytes) {
    return ready({ kind: "growDisk", disk, sizeBytes: wanted.sizeBytes }, "Growing its disk");
  }
  if (mounted && holders.length === 0) return ready({ kind: "unmount" }, "Unmounting: nobody uses it");
  if (filesystem.hasErrors) return planErrors(disk, filesystem, mounted || seen.attached);
  if (filesystem.sizeBytes + extentBytes <= disk.sizeBytes) {
    if (seen.attached && !mounted)
      return ready(none, "Its filesystem grows when the microVM that uses it is next started");
    if (!mounted || !seen.growsUnmountedOnly) return ready({ kind: "growFilesystem", disk }, "Growing its filesystem");
    return ready(none, "Its filesystem grows when it is next unmounted: the kernel does not allow it now");
  }
  return ready(none, holders.length === 0 ? "Not in use" : `In use by ${holders.join(", ")}`);
}

function planErrors(disk: Disk, { damage }: SeenFilesystem, inUse: boolean): Plan {
  if (inUse) {
    const message =
      "Its filesystem has noted an error, and may be read-only. It is looked through when it is next unmounted: restart what uses it";
    return { step: none, phase: VolumePhase.FAILED, message };
  }
  if (damage === undefined) {
    const message = "Looking through its filesystem, which has noted an error";
    return { step: { kind: "verify", disk }, phase: VolumePhase.PENDING, message };
  }
  return { step: none, phase: VolumePhase.FAILED, message: damage };
}

function placing(disk: Disk): Plan {
  return { step: { kind: "place", disk }, phase: VolumePhase.PENDING, message: "Putting its disk into place" };
}

/** What is to be done before the volume's name is free; undefined when it is. */
function makeRoom({ diskName }: Wanted, squatter: Seen["squatter"], phase: VolumePhase): Plan | undefined {
  if (squatter === undefined) return undefined;
  const { disk, moveTo } = squatter;
  if (moveTo !== undefined) {
    return { step: { kind: "move", disk, name: moveTo }, phase, message: "Putting its former disk aside" };
  }
  if (!disk.whole)
    return { step: { kind: "discard", disk }, phase, message: "Removing what an unfinished try has left" };
  const message = `The pool has a disk ${diskName} that is not this volume's, and may hold data of a volume of that name from before. It was not touched: choose another name, or remove it on the capsule`;
  return { step: none, phase: VolumePhase.FAILED, message };
}
