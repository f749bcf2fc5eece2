/**
 * Whether the stick holds what was built: sticks wear out, and are pulled out while they are written to. What the image builder
 * signed tells it; of where the stick comes from that says nothing, for who makes one chooses the keys that it trusts.
 */
import type { KeyObject } from "node:crypto";
import {
  BundleError,
  type BundleFile,
  type BundleHead,
  maxHeadBytes,
  parseManifest,
} from "@capsule/api/update-bundle.ts";
import { imageManifest } from "../../../../image/disk/layout.ts";
import type { Region } from "../update/region.ts";
import { checkContent, OtherContent } from "../update/slot-content.ts";
import { slotRegions } from "../update/slots.ts";
import { isSigned } from "../update/trust.ts";
import { damagedStick, type MediumDisk } from "./medium.ts";

const blockBytes = 4096;

/**
 * What the slot that runs must hold; undefined when the manifest is of another one: somebody has updated this stick. Throws
 * CapsuleError when the stick is damaged.
 */
export async function signedFiles(
  medium: MediumDisk,
  keys: readonly KeyObject[],
): Promise<readonly BundleFile[] | undefined> {
  if (medium.slot !== "a" || (await wasUpdated(medium))) return undefined;
  const head: BundleHead = {
    manifest: await contentOf(await medium.file(imageManifest.manifest)),
    signature: await contentOf(await medium.file(imageManifest.signature)),
  };
  if (!isSigned(head, keys)) throw damagedStick(medium, "the manifest of its system is signed by none of its own keys");
  try {
    return parseManifest(head.manifest).files;
  } catch (error) {
    if (error instanceof BundleError) throw damagedStick(medium, error.message);
    throw error;
  }
}

/** Yields the bytes of each step. Throws CapsuleError. */
export async function* checkStick(medium: MediumDisk, files: readonly BundleFile[]): AsyncGenerator<number> {
  const regions = await slotRegions(medium.region("CAPSULEBOOT"), "a", medium.region("slot_a"));
  try {
    yield* checkContent(files, regions);
  } catch (error) {
    if (error instanceof OtherContent) throw damagedStick(medium, error.message);
    if ((error as NodeJS.ErrnoException).code === "EIO")
      throw damagedStick(medium, "a part of it cannot be read", error);
    throw error;
  }
}

/** A bundle begins with the kernel: once one came to the other slot, there is something in its place. */
async function wasUpdated(medium: MediumDisk): Promise<boolean> {
  const place = await medium.file("/capsule/b/vmlinuz");
  return (await place.read(0, blockBytes)).some((byte) => byte !== 0);
}

async function contentOf(region: Region): Promise<Uint8Array> {
  return await region.read(0, Math.min(region.sizeBytes, maxHeadBytes));
}
