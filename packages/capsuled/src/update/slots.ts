/** The slots of the disk that the capsule was started from. */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { CapsuleError } from "../errors.ts";
import { BootEnvironment, type SlotName } from "./boot-choice.ts";
import { fileIn } from "./fat.ts";
import { Region } from "./region.ts";
import type { SlotRegions } from "./slot-content.ts";

export interface SlotDisk {
  readonly running: SlotName;
  /** The boot loader started it as a trial. */
  readonly isTrial: boolean;
  readonly boot: BootEnvironment;
  /** Never of the slot that runs: throws. */
  regionsOf(slot: SlotName): Promise<SlotRegions>;
}

/** What the initramfs wrote (image/initramfs/init). */
interface Boot {
  readonly disk: string;
  readonly slot: SlotName;
  readonly trial?: boolean;
}

export function otherSlot(slot: SlotName): SlotName {
  return slot === "a" ? "b" : "a";
}

/** Throws CapsuleError when the disk has no layout for updates. */
export async function openSlotDisk(bootFile = "/run/capsule/boot.json"): Promise<SlotDisk> {
  const { disk, slot: running, trial = false } = JSON.parse(await readFile(bootFile, "utf8")) as Boot;
  const bootPartition = await partitionNamed(disk, "CAPSULEBOOT");
  return slotDisk({
    running,
    isTrial: trial,
    bootPartition,
    partitionOf: (slot) => partitionNamed(disk, `slot_${slot}`),
  });
}

/** The same of partitions that were found. */
export async function slotDisk({
  running,
  isTrial,
  bootPartition,
  partitionOf,
}: {
  readonly running: SlotName;
  readonly isTrial: boolean;
  readonly bootPartition: Region;
  readonly partitionOf: (slot: SlotName) => Promise<Region>;
}): Promise<SlotDisk> {
  return {
    running,
    isTrial,
    boot: new BootEnvironment(await fileIn(bootPartition, "/capsule/grubenv")),
    regionsOf: async (slot) => {
      if (slot === running) throw new Error(`slot ${slot} runs: nothing writes to it`);
      return await slotRegions(bootPartition, slot, await partitionOf(slot));
    },
  };
}

/** The places of a slot's members. */
export async function slotRegions(bootPartition: Region, slot: SlotName, root: Region): Promise<SlotRegions> {
  return {
    vmlinuz: await fileIn(bootPartition, `/capsule/${slot}/vmlinuz`),
    initrd: await fileIn(bootPartition, `/capsule/${slot}/initrd`),
    "root.squashfs": root,
  };
}

/** By its name in the partition table. */
export async function partitionNamed(disk: string, name: string): Promise<Region> {
  const sys = join("/sys/block", basename(disk));
  for (const entry of await readdir(sys)) {
    const uevent = await readFile(join(sys, entry, "uevent"), "utf8").catch(() => "");
    if (!uevent.split("\n").includes(`PARTNAME=${name}`)) continue;
    const sizeBytes = Number(await readFile(join(sys, entry, "size"), "utf8")) * 512;
    return new Region(`/dev/${entry}`, [{ startBytes: 0, sizeBytes }]);
  }
  throw new CapsuleError("precondition", `${disk} has no partition ${name}: this disk was not laid out for updates.`, {
    reason: "NO_UPDATE_LAYOUT",
  });
}
