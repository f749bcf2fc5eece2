/**
 * The boot partition: FAT with GRUB, its configuration, and kernel and initramfs of each slot; all that firmware must read.
 * And the signed manifest of the first slot, by which an installer knows whether the stick is as it was built.
 */
import { cp, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { editGrubenv, emptyGrubenv } from "../../packages/capsuled/src/update/grubenv.ts";
import { run } from "../run.ts";
import { sourceDate } from "../source-date.ts";
import type { SignedSlot } from "../update.ts";
import { bootFileBytes, diskSignature, imageManifest } from "./layout.ts";

/** What GRUB needs on every firmware to read a FAT partition and to start Linux. */
export const grubModules: readonly string[] = [
  "part_gpt",
  "fat",
  "normal",
  "configfile",
  "linux",
  "echo",
  "test",
  "serial",
  "terminal",
  "loadenv",
  "reboot",
  "halt",
  "sleep",
  "probe",
];
/** Where GRUB finds its configuration, on the boot partition. */
export const grubDir = "/EFI/BOOT";

/** Writes the filesystem to a file of its own. */
export async function writeEsp({ slot, head }: SignedSlot, target: string, sizeBytes: number): Promise<void> {
  await writeFile(target, "");
  await truncate(target, sizeBytes);
  // Clusters of 2 KiB: GRUB follows a file from one to the next, and with the default of 512 bytes that takes its time.
  // --invariant has an id of its own: what comes behind it counts.
  await run(["mkfs.vfat", "--invariant", "-F", "32", "-s", "4", "-n", "CAPSULEBOOT", "-i", diskSignature, target]);
  const [grub, config, environment, file] = ["grub", "cfg", "env", "file"].map((name) => `${target}.${name}`) as [
    ...[string, string, string, string],
  ];
  try {
    await writeEfiGrub(grub, config);
    const template = await readFile(join(import.meta.dirname, "../grub/grub.cfg"), "utf8");
    await writeFile(config, template.replaceAll("@signature@", diskSignature));
    await writeFile(environment, editGrubenv(emptyGrubenv(), { capsule_slot: "a" }));
    // -m keeps the files' times; mtools writes directories with the time of SOURCE_DATE_EPOCH.
    const env = { SOURCE_DATE_EPOCH: String(sourceDate.getTime() / 1000), MTOOLS_SKIP_CHECK: "1", TZ: "UTC" };
    const put = async (from: string, to: string): Promise<void> => {
      await utimes(from, sourceDate, sourceDate);
      await run(["mcopy", "-m", "-i", target, from, `::${to}`], { env });
    };
    const dirs = ["/EFI", grubDir, "/capsule", "/capsule/a", "/capsule/b"];
    await run(["mmd", "-i", target, ...dirs.map((dir) => `::${dir}`)], { env });
    await put(grub, `${grubDir}/BOOTX64.EFI`);
    await put(config, `${grubDir}/grub.cfg`);
    await put(environment, "/capsule/grubenv");
    for (const [path, bytes] of [
      [imageManifest.manifest, head.manifest],
      [imageManifest.signature, head.signature],
    ] as const) {
      await writeFile(file, bytes);
      await put(file, path);
    }
    for (const [name, from] of [
      ["vmlinuz", slot.vmlinuz],
      ["initrd", slot.initrd],
    ] as const) {
      const { size } = await stat(from);
      if (size > bootFileBytes[name])
        throw new Error(
          `${name} has ${size} bytes, and ${bootFileBytes[name]} are laid out for it (image/disk/layout.ts)`,
        );
      await cp(from, file);
      await truncate(file, bootFileBytes[name]);
      await put(file, `/capsule/a/${name}`);
      await truncate(file, 0);
      await truncate(file, bootFileBytes[name]);
      await put(file, `/capsule/b/${name}`);
    }
  } finally {
    for (const scratch of [grub, config, environment, file]) await rm(scratch, { force: true });
  }
}

async function writeEfiGrub(target: string, scratch: string): Promise<void> {
  await writeFile(scratch, "configfile $prefix/grub.cfg\n");
  const options = ["-O", "x86_64-efi", "-p", grubDir, "-c", scratch, "-o", target];
  await run(["grub-mkimage", ...options, ...grubModules, "efi_gop"]);
}
