/** build/update.tar: one slot, signed, for capsules that run already. */
import { createHash, type KeyObject, sign } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import {
  type BundleFile,
  type BundleHead,
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

/** A slot and what is signed of it. */
export interface SignedSlot {
  readonly slot: Slot;
  readonly manifest: BundleManifest;
  /** The bytes of the manifest, and their signature. */
  readonly head: BundleHead;
}

export async function signSlot(slot: Slot, { version, epoch, key }: BundleOptions): Promise<SignedSlot> {
  const files: BundleFile[] = [];
  for (const name of memberNames) {
    const path = pathOf(slot, name);
    const hash = createHash("sha256");
    await pipeline(createReadStream(path), hash);
    files.push({ name, sizeBytes: (await stat(path)).size, sha256: hash.digest("hex") });
  }
  const manifest: BundleManifest = { format: 1, version, architecture, epoch, files };
  const encoded = encodeManifest(manifest);
  return { slot, manifest, head: { manifest: encoded, signature: sign(null, encoded, key) } };
}

/** Writes a slot as a signed bundle (packages/api/src/update-bundle.ts). The file is the old one or the whole new one. */
export async function writeUpdate({ slot, manifest, head }: SignedSlot, target: string): Promise<void> {
  const scratch = `${target}.new`;
  const out = await open(scratch, "w");
  try {
    for (const segment of segmentsOf(head, manifest)) {
      if (segment.kind === "fixed") await out.writeFile(segment.bytes);
      else
        for await (const data of createReadStream(pathOf(slot, segment.file.name), { highWaterMark: 1024 * 1024 }))
          await out.writeFile(data as Buffer);
    }
    await rename(scratch, target);
  } finally {
    await out.close();
    await rm(scratch, { force: true });
  }
}

function pathOf({ vmlinuz, initrd, squashfs }: Slot, name: MemberName): string {
  return { vmlinuz, initrd, "root.squashfs": squashfs }[name];
}
