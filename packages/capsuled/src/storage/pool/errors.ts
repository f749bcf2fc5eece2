import { CapsuleError } from "../../errors.ts";
import type { DiskId } from "./backend.ts";

export function noDisk({ name, uid }: DiskId): CapsuleError {
  return new CapsuleError("notFound", `The pool has no disk ${name} (${uid}).`, {
    reason: "NO_DISK",
    metadata: { disk: name, uid },
  });
}

export function nameTaken({ name }: DiskId, holder: DiskId): CapsuleError {
  return new CapsuleError("conflict", `The pool has a disk ${name} already (${holder.uid}).`, {
    reason: "DISK_NAME_TAKEN",
    metadata: { disk: name, uid: holder.uid },
  });
}

export function diskInUse({ name, uid }: DiskId, cause?: unknown): CapsuleError {
  return new CapsuleError("conflict", `The disk ${name} is in use.`, {
    cause,
    reason: "DISK_IN_USE",
    metadata: { disk: name, uid },
  });
}

export function poolFull(cause: unknown): CapsuleError {
  return new CapsuleError(
    "exhausted",
    "The pool is full. Make room: `capsulectl volume delete-snapshot`, `volume delete`, or a larger disk.",
    { cause, reason: "POOL_FULL" },
  );
}
