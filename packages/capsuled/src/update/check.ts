/** Whether a bundle may be written to a slot. Everything that can be known is known before a byte of the slot is changed. */
import type { KeyObject } from "node:crypto";
import {
  BundleError,
  type BundleHead,
  type BundleManifest,
  type MemberName,
  parseManifest,
  segmentsOf,
  sizeOfSegments,
} from "@capsule/api/update-bundle.ts";
import { CapsuleError } from "../errors.ts";
import { checkSignature } from "./trust.ts";

export interface Requirements {
  readonly keys: readonly KeyObject[];
  /** As Debian names it. */
  readonly architecture: string;
  /** Bundles of an older epoch are refused. */
  readonly epochFloor: number;
  readonly allowDowngrade: boolean;
  /** What the slot has room for, in bytes. */
  readonly room: Readonly<Record<MemberName, number>>;
}

/** Returns what the bundle holds. Throws CapsuleError with the first reason against it. */
export function checkBundle(head: BundleHead, sizeBytes: number, wanted: Requirements): BundleManifest {
  checkSignature(head, wanted.keys);
  const manifest = asCapsuleError(() => parseManifest(head.manifest));
  if (manifest.architecture !== wanted.architecture)
    throw refused(
      "OTHER_ARCHITECTURE",
      `it is for ${manifest.architecture}, and this capsule is ${wanted.architecture}`,
    );
  if (manifest.epoch < wanted.epochFloor && !wanted.allowDowngrade)
    throw refused(
      "OLDER_EPOCH",
      `its epoch is ${manifest.epoch}, and this capsule has run epoch ${wanted.epochFloor}: what was mended since then would be open again. ` +
        "Take a newer bundle, or go back all the same by --allow-downgrade",
    );
  for (const { name, sizeBytes: size } of manifest.files) {
    const room = wanted.room[name];
    if (size > room) throw refused("TOO_LARGE", `${name} has ${size} bytes, and the slot has room for ${room}`);
  }
  const expected = sizeOfSegments(segmentsOf(head, manifest));
  if (sizeBytes < expected)
    throw refused("BUNDLE_TRUNCATED", `${expected - sizeBytes} of its ${expected} bytes are missing`);
  if (sizeBytes > expected)
    throw refused("BUNDLE_MEMBER_EXTRA", `it has ${sizeBytes - expected} bytes more than its members take`);
  return manifest;
}

/** Turns what is wrong with a bundle by itself into an error for the caller. */
export function asCapsuleError<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof BundleError) throw refused(error.reason, error.message);
    throw error;
  }
}

function refused(reason: string, why: string): CapsuleError {
  return new CapsuleError("invalid", `The bundle is refused: ${why}. Nothing was changed.`, { reason });
}
