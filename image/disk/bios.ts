/**
 * GRUB for machines without UEFI, as many rented ones are: boot code in the first sector, the rest in a partition of its
 * own (GRUB manual, "BIOS installation"; the offsets are those of grub-core/boot/i386/pc/{boot,diskboot}.S). What
 * grub-install would do needs the disk as a block device; these are two numbers in two sectors.
 */
import { open, readFile, rm } from "node:fs/promises";
import { run } from "../run.ts";
import { grubDir, grubModules } from "./esp.ts";
import { type Partition, sectorBytes } from "./layout.ts";

const modulesDir = "/usr/lib/grub/i386-pc";
/** Boot code ends here; the disk's signature and the partition table follow. */
const bootCodeBytes = 440;
/** In boot.img: the sector where the rest begins, 64 bits. */
const kernelSectorAt = 0x5c;
/** In the first sector of the rest: where the sectors after it begin, 64 bits. */
const blocklistStartAt = sectorBytes - 12;

/** Throws when GRUB is larger than the partition. */
export async function writeBiosBoot(disk: string, { startBytes, sizeBytes }: Partition): Promise<void> {
  const target = `${disk}.bios`;
  try {
    // Without a disk's name the prefix is on the disk that was booted from.
    const options = ["-O", "i386-pc", "-p", `(,gpt1)${grubDir}`, "-o", target];
    await run(["grub-mkimage", ...options, "biosdisk", ...grubModules]);
    const core = await readFile(target);
    if (core.length > sizeBytes)
      throw new Error(`GRUB for BIOS has ${core.length} bytes and its partition ${sizeBytes}`);
    const boot = (await readFile(`${modulesDir}/boot.img`)).subarray(0, bootCodeBytes);
    const sector = BigInt(startBytes / sectorBytes);
    boot.writeBigUInt64LE(sector, kernelSectorAt);
    core.writeBigUInt64LE(sector + 1n, blocklistStartAt);
    const file = await open(disk, "r+");
    try {
      await file.write(boot, 0, bootCodeBytes, 0);
      await file.write(core, 0, core.length, startBytes);
    } finally {
      await file.close();
    }
  } finally {
    await rm(target, { force: true });
  }
}
