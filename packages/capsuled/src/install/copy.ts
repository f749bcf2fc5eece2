/** Copies places of one disk to another, and compares what the other gives back. Both yield the bytes of each step. */
import { createHash } from "node:crypto";
import { CapsuleError } from "../errors.ts";
import type { Piece } from "./pieces.ts";

const stepBytes = 1024 * 1024;
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
        for (const { at, size } of stepsOf(piece)) {
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
    const hash = createHash("sha256");
    const to = await piece.to.open("read");
    try {
      for (const { at, size } of stepsOf(piece)) {
        hash.update(await to.read(at, size));
        yield size;
      }
    } finally {
      await to.close();
    }
    if (hash.digest("hex") !== digests.get(piece))
      throw new CapsuleError(
        "internal",
        `${piece.to.device} gives another ${piece.name} back than was written to it: it is failing. It does not start from this disk.`,
        { reason: "FAILING_DISK" },
      );
  }
}

function* stepsOf({ from }: Piece): Generator<{ readonly at: number; readonly size: number }> {
  for (let at = 0; at < from.sizeBytes; at += stepBytes) yield { at, size: Math.min(stepBytes, from.sizeBytes - at) };
}
