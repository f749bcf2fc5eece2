/** Copies places of one disk to another, and compares what the other gives back. Both yield the bytes of each step. */
import { createHash } from "node:crypto";
import { CapsuleError } from "../errors.ts";
import { stepsOf } from "../update/region.ts";
import type { Piece } from "./pieces.ts";

/** What memory may hold of it: more, and the progress that is told is not the disk's. */
const unsyncedBytes = 32 * 1024 * 1024;

/** SHA-256 of what was read from the stick, by piece. */
export type Digests = Map<Piece, string>;

/** Durable when it ends. */
export async function* copyPieces(pieces: readonly Piece[], digests: Digests): AsyncGenerator<number> {
  for (const piece of pieces) {
    const from = await piece.from.open("read");
    try {
      const to = await piece.to.open("write");
      try {
        const hash = createHash("sha256");
        for (const { at, size } of stepsOf(0, piece.from.sizeBytes)) {
          const data = await from.read(at, size);
          hash.update(data);
          await to.write(data, at);
          if ((at + size) % unsyncedBytes === 0) await to.sync();
          yield size;
        }
        await to.sync();
        digests.set(piece, hash.digest("hex"));
      } finally {
        await to.close();
      }
    } finally {
      await from.close();
    }
  }
}

/** Reads from the disk itself, not from memory. Throws CapsuleError when it is not what was written. */
export async function* comparePieces(pieces: readonly Piece[], digests: Digests): AsyncGenerator<number> {
  for (const piece of pieces) {
    await piece.to.forgetCached();
    const to = await piece.to.open("read");
    let digest: string;
    try {
      digest = yield* to.digest(piece.from.sizeBytes);
    } finally {
      await to.close();
    }
    if (digest !== digests.get(piece))
      throw new CapsuleError(
        "internal",
        `${piece.to.device} gives another ${piece.name} back than was written to it: it is failing. It does not start from this disk.`,
        { reason: "FAILING_DISK" },
      );
  }
}
