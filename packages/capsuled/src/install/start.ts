/**
 * Makes a disk start on which all else is written and was read back: sectors that are written one after the other, in an
 * order in which every cut leaves a disk that does not start or one that starts as it should.
 */
import { diskSignature, espOffset, layoutOf } from "../../../../image/disk/layout.ts";
import { mayCrash } from "../crash-point.ts";
import { CapsuleError } from "../errors.ts";
import { withOwnId } from "../storage/substrate/boot-partition.ts";
import { BootEnvironment } from "../update/boot-choice.ts";
import { fileIn } from "../update/fat.ts";
import { editGrubenv, emptyGrubenv } from "../update/grubenv.ts";
import { Region } from "../update/region.ts";
import { changeSector, readSector } from "../update/sector.ts";
import { markerAt } from "./marker.ts";
import type { MediumDisk } from "./medium.ts";
import { type Piece, partitionOf, type TargetDisk } from "./pieces.ts";

const bootCodeBytes = 440;
const signatureAt = 440;

/** The boot partition of the disk as files; what the boot loader is told there is what a new disk is told. */
export async function settleBootPartition(medium: MediumDisk, target: TargetDisk): Promise<void> {
  const environment = await fileOn(medium, target, "/capsule/grubenv");
  const opened = await environment.open("write");
  try {
    await opened.write(editGrubenv(emptyGrubenv(), { capsule_slot: "a" }), 0);
    await opened.sync();
  } finally {
    await opened.close();
  }
  await environment.forgetCached();
  const { confirmed, trying } = await new BootEnvironment(environment).read();
  if (confirmed !== "a" || trying !== undefined) throw failing(target);
}

/** Kernel and initramfs of the slot that runs, where slot a has its own: nothing, when it is slot a that runs. */
export async function kernelPieces(medium: MediumDisk, target: TargetDisk): Promise<Piece[]> {
  if (medium.slot === "a") return [];
  return await Promise.all(
    ["vmlinuz", "initrd"].map(async (name) => ({
      name,
      from: await medium.file(`/capsule/${medium.slot}/${name}`),
      to: await fileOn(medium, target, `/capsule/a/${name}`),
    })),
  );
}

/** Runs the steps and reads back what they have written. From the first of them on nobody is asked whether to go on. */
export async function makeStart(medium: MediumDisk, target: TargetDisk): Promise<void> {
  const { bootSector, bootCode, steps } = await startSteps(medium, target);
  for (const step of steps) {
    await step();
    mayCrash();
  }
  const { path, sizeBytes } = target;
  await new Region(path, [{ startBytes: 0, sizeBytes }]).forgetCached();
  const [first, second, marker] = await Promise.all([0, espOffset, markerAt].map((at) => readSector(path, at)));
  const isWhole =
    first?.subarray(0, bootCodeBytes).equals(bootCode) === true &&
    second?.equals(bootSector) === true &&
    marker?.every((byte) => byte === 0) === true;
  if (!isWhole) throw failing(target);
}

/** One sector each. */
export async function startSteps(
  medium: MediumDisk,
  { path }: TargetDisk,
): Promise<{
  readonly bootSector: Buffer;
  readonly bootCode: Buffer;
  readonly steps: readonly (() => Promise<void>)[];
}> {
  const bootSector = await readSector(medium.disk, medium.extentOf("CAPSULEBOOT").startBytes);
  // The boot loader tells the system by it which disk it was started from, beside a stick with the same image.
  const backupAt = espOffset + withOwnId(bootSector);
  const bootCode = (await readSector(medium.disk, 0)).subarray(0, bootCodeBytes);
  const steps = [
    async () => await changeSector(path, backupAt, (sector) => void bootSector.copy(sector)),
    // By this the system finds its disk.
    async () =>
      await changeSector(
        path,
        0,
        (sector) => void sector.writeUInt32LE(Number.parseInt(diskSignature, 16), signatureAt),
      ),
    // By this one UEFI finds the boot loader: now all that it needs is there.
    async () => await changeSector(path, espOffset, (sector) => void bootSector.copy(sector)),
    // And by this one BIOS.
    async () => await changeSector(path, 0, (sector) => void bootCode.copy(sector)),
    async () => await changeSector(path, markerAt, (sector) => void sector.fill(0)),
  ];
  return { bootSector, bootCode, steps };
}

async function fileOn(medium: MediumDisk, { path, sizeBytes }: TargetDisk, name: string): Promise<Region> {
  // Looked up on the stick: the first sector of the copy, which tells where everything is, is not written yet.
  const copy = new Region(path, [partitionOf(layoutOf(sizeBytes, medium.slotBytes), "CAPSULEBOOT")]);
  return await fileIn(medium.region("CAPSULEBOOT"), name, copy);
}

function failing({ path }: TargetDisk): CapsuleError {
  return new CapsuleError("internal", `${path} does not keep what is written to it: it is failing.`, {
    reason: "FAILING_DISK",
  });
}
