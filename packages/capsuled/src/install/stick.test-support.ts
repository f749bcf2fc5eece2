/** A stick as a file, written as the image builder lays it out but without its programs: for tests. */
import { execFileSync } from "node:child_process";
import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { closeSync, mkdirSync, openSync, readSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type BundleFile, encodeManifest, type MemberName } from "@capsule/api/update-bundle.ts";
import {
  bootFileBytes,
  diskSignature,
  imageManifest,
  layoutOf,
  minDiskBytes,
  sfdiskScript,
} from "../../../../image/disk/layout.ts";
import { editGrubenv, emptyGrubenv } from "../update/grubenv.ts";
import { MediumDisk } from "./medium.ts";

export const slotBytes = 64 * 1024 * 1024;
/** In every slot: what a squashfs begins with, and how long it is. */
const systemBytes = 3_000_000;
/** Of what is in the places of kernel and initramfs. */
const bootBytes = 1_000_001;

/** The keys of who builds sticks. */
export const builder = generateKeyPairSync("ed25519");

/** As it was built when slot a runs; slot b is what an update has written. */
export function makeStick(dir: string, running: "a" | "b"): MediumDisk {
  const [path, esp] = [join(dir, "stick"), join(dir, "esp")];
  const layout = layoutOf(minDiskBytes(slotBytes), slotBytes);
  writeFileSync(path, "");
  truncateSync(path, minDiskBytes(slotBytes));
  execFileSync("sfdisk", ["--quiet", path], {
    input: sfdiskScript(layout, crypto.randomUUID(), () => crypto.randomUUID()),
  });
  const extents = new Map(layout.map(({ name, startBytes, sizeBytes }) => [name as string, { startBytes, sizeBytes }]));
  const at = (name: string): number => extents.get(name)?.startBytes ?? Number.NaN;
  const system = aSystem();
  makeBootPartition(esp, extents.get("CAPSULEBOOT")?.sizeBytes ?? 0, system, running === "b");
  execFileSync(
    "dd",
    [`if=${esp}`, `of=${path}`, "bs=1M", `seek=${at("CAPSULEBOOT") / 1024 ** 2}`, "conv=notrunc,sparse"],
    {
      stdio: "ignore",
    },
  );
  rmSync(esp);
  const file = openSync(path, "r+");
  const put = (data: Buffer, offset: number): void => void writeSync(file, data, 0, data.length, offset);
  put(randomBytes(440), 0);
  const signature = Buffer.alloc(4);
  signature.writeUInt32LE(Number.parseInt(diskSignature, 16));
  put(signature, 440);
  put(randomBytes(100_000), at("BIOSBOOT"));
  put(system, at("slot_a"));
  if (running === "b") put(aSystem(), at("slot_b"));
  closeSync(file);
  return new MediumDisk(path, running, extents);
}

function aSystem(): Buffer {
  const system = randomBytes(systemBytes);
  system.write("hsqs", 0, "latin1");
  system.writeBigUInt64LE(BigInt(systemBytes), 40);
  return system;
}

function makeBootPartition(esp: string, sizeBytes: number, systemA: Buffer, wasUpdated: boolean): void {
  writeFileSync(esp, "");
  truncateSync(esp, sizeBytes);
  execFileSync("mkfs.vfat", ["-F", "32", "-s", "4", "-i", diskSignature, esp], { stdio: "ignore" });
  const dirs = ["/EFI", "/EFI/BOOT", "/capsule", "/capsule/a", "/capsule/b"];
  execFileSync("mmd", ["-i", esp, ...dirs.map((one) => `::${one}`)]);
  const scratch = `${esp}.file`;
  const put = (content: Buffer, to: string): void => {
    writeFileSync(scratch, content);
    execFileSync("mcopy", ["-i", esp, scratch, `::${to}`]);
  };
  put(randomBytes(100_000), "/EFI/BOOT/BOOTX64.EFI");
  put(Buffer.from("set timeout=0\n"), "/EFI/BOOT/grub.cfg");
  // What somebody has told this stick is not for the disk.
  put(editGrubenv(emptyGrubenv(), { capsule_slot: "b", capsule_mode: "installer" }), "/capsule/grubenv");
  const inPlace = (name: keyof typeof bootFileBytes, content: Buffer): Buffer =>
    Buffer.concat([content], bootFileBytes[name]);
  const kernel = Buffer.alloc(bootBytes, "a");
  for (const name of ["vmlinuz", "initrd"] as const) {
    put(inPlace(name, kernel), `/capsule/a/${name}`);
    put(inPlace(name, Buffer.alloc(wasUpdated ? bootBytes : 0, "b")), `/capsule/b/${name}`);
  }
  const fileOf = (name: MemberName, content: Buffer): BundleFile => {
    const sha256 = createHash("sha256").update(content).digest("hex");
    return { name, sizeBytes: content.length, sha256 };
  };
  const files = [fileOf("vmlinuz", kernel), fileOf("initrd", kernel), fileOf("root.squashfs", systemA)];
  const manifest = encodeManifest({ format: 1, version: "1.0.0", architecture: "amd64", epoch: 1, files });
  put(Buffer.from(manifest), imageManifest.manifest);
  put(sign(null, manifest, builder.privateKey), imageManifest.signature);
  rmSync(scratch);
}

/** A file of a boot partition at `startBytes` of a disk. */
export function bootFile(disk: string, startBytes: number, path: string): Buffer {
  return execFileSync("mtype", ["-i", `${disk}@@${startBytes}`, `::${path}`], { maxBuffer: 64 * 1024 ** 2 });
}

export function bytesAt(path: string, startBytes: number, sizeBytes: number): Buffer {
  const file = openSync(path, "r");
  const data = Buffer.alloc(sizeBytes);
  readSync(file, data, 0, sizeBytes, startBytes);
  closeSync(file);
  return data;
}

/** A disk with somebody's data at every place that matters. */
export function makeUsedDisk(dir: string, sizeBytes: number): string {
  const path = join(dir, "disk");
  mkdirSync(dir, { recursive: true });
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  const file = openSync(path, "r+");
  for (const { startBytes, sizeBytes: size } of layoutOf(sizeBytes, slotBytes))
    for (const offset of [startBytes, startBytes + size - 1024 ** 2])
      writeSync(file, randomBytes(4096), 0, 4096, offset);
  for (const offset of [0, sizeBytes - 4096]) writeSync(file, randomBytes(4096), 0, 4096, offset);
  closeSync(file);
  return path;
}

export function readEnvironment(disk: string, startBytes: number): string {
  return bootFile(disk, startBytes, "/capsule/grubenv").toString("latin1").replaceAll("#", "").trim();
}
