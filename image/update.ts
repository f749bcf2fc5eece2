/** build/update.tar: one slot, signed, for capsules that run already. */
import { createHash, type KeyObject, sign } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import {
  type BundleFile,
  type BundleManifest,
  encodeManifest,
  type MemberName,
  memberNames,
  segmentsOf,
} from "@capsule/api/update-bundle.ts";
import type { Slot } from "./slot.ts";

export const architecture = process.arch === "arm64" ? "arm64" : "amd64";

export interface BundleOptions {
  readonly version: string;
  readonly epoch: number;
  readonly key: KeyObject;
}

/** Writes a slot as a signed bundle (packages/api/src/update-bundle.ts). The file is the old one or the whole new one. */
export async function writeUpdate(
  slot: Slot,
  { version, epoch, key }: BundleOptions,
  target: string,
): Promise<BundleManifest> {
  const paths: Record<MemberName, string> = {
    vmlinuz: slot.vmlinuz,
    initrd: slot.initrd,
    "root.squashfs": slot.squashfs,
  };
  const files: BundleFile[] = [];
  for (const name of memberNames) {
    const hash = createHash("sha256");
    await pipeline(createReadStream(paths[name]), hash);
    files.push({ name, sizeBytes: (await stat(paths[name])).size, sha256: hash.digest("hex") });
  }
  const manifest: BundleManifest = { format: 1, version, architecture, epoch, files };
  const encoded = encodeManifest(manifest);
  const scratch = `${target}.new`;
  const out = await open(scratch, "w");
  try {
    for (const segment of segmentsOf({ manifest: encoded, signature: sign(null, encoded, key) }, manifest)) {
      if (segment.kind === "fixed") await out.writeFile(segment.bytes);
      else
        for await (const data of createReadStream(paths[segment.file.name], { highWaterMark: 1024 * 1024 }))
          await out.writeFile(data as Buffer);
    }
    await rename(scratch, target);
  } finally {
    await out.close();
    await rm(scratch, { force: true });
  }
  return manifest;
}
