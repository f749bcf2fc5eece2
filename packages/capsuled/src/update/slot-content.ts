/** What is in the places of a slot, against what a manifest says of it. */
import { BundleError, type BundleFile, type MemberName } from "@capsule/api/update-bundle.ts";
import { type Region, stepBytes, stepsOf } from "./region.ts";

export type SlotRegions = Readonly<Record<MemberName, Region>>;

/** The boot loader reads their places whole: nothing of an earlier file may be behind them. */
export const filledUp: ReadonlySet<MemberName> = new Set(["vmlinuz", "initrd"]);

/** The message says which file has what instead. */
export class OtherContent extends Error {
  override readonly name = "OtherContent";
}

/** Reads all of it from the disk itself, not from memory. Yields the bytes of each step; throws OtherContent. */
export async function* checkContent(files: readonly BundleFile[], regions: SlotRegions): AsyncGenerator<number> {
  const zeros = Buffer.alloc(stepBytes);
  for (const { name, sizeBytes, sha256 } of files) {
    await regions[name].forgetCached();
    const region = await regions[name].open("read");
    let digest: string;
    try {
      digest = yield* region.digest(sizeBytes);
      for (const { at, size } of stepsOf(sizeBytes, filledUp.has(name) ? regions[name].sizeBytes : sizeBytes))
        if (!(await region.read(at, size)).equals(zeros.subarray(0, size)))
          throw new OtherContent(`behind ${name} there is something else than zeros`);
    } finally {
      await region.close();
    }
    if (digest !== sha256) throw new OtherContent(`${name} has another content than its signed manifest says`);
  }
}

/** Of a slot that was just written. Throws BundleError. */
export async function readBack(files: readonly BundleFile[], regions: SlotRegions): Promise<void> {
  try {
    for await (const _ of checkContent(files, regions));
  } catch (error) {
    if (!(error instanceof OtherContent)) throw error;
    const message = `the disk gives something else back than was written to it, so it is failing: ${error.message}`;
    throw new BundleError("BUNDLE_DAMAGED", message);
  }
}
