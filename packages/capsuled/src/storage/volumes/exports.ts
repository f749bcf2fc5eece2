/**
 * Exports of volumes: from a copy of its own, which shares the volume's blocks, so that the workload runs on and the image
 * is of one moment. The copy outlives a broken connection for a while, and the caller goes on where it was. It is promised
 * to nobody: after a kill of capsuled it goes.
 */
import { randomUUID } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { chunkBytes, documentFrame, type ImageHeader } from "@capsule/api/volume-image.ts";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import type { DiskId, PoolBackend } from "../pool/backend.ts";
import { replayJournal } from "../tools/ext4.ts";
import { imageDigest, type Packed, pack } from "./chunks.ts";
import type { Snapshots } from "./snapshots.ts";

/** How long a copy waits for a caller who has gone, in milliseconds. */
const patienceMs = 10 * 60_000;
const maxExports = 8;
/** Chunks that are read ahead and packed at once. */
const ahead = 4;
/** Frames are sent together up to this size: those of empty chunks are tiny. */
const batchBytes = 256 * 1024;

export interface ExportStart {
  readonly exportId: string;
  readonly sizeBytes: number;
  readonly chunks: number;
}

export type ExportPart =
  | { readonly kind: "start"; readonly start: ExportStart }
  /** Whole frames; those before chunk `nextChunk` are sent with this. */
  | { readonly kind: "data"; readonly bytes: Uint8Array; readonly nextChunk: number };

interface Session {
  readonly id: string;
  readonly volume: string;
  readonly backend: PoolBackend;
  readonly disk: DiskId;
  /** The copy, for all callers: one that lingers must not keep a disk open that is to be removed. */
  readonly file: FileHandle;
  readonly sizeBytes: number;
  readonly digests: Uint8Array[];
  /** Counts its callers: an earlier one ends when the next has come. */
  caller: number;
  timer: NodeJS.Timeout | undefined;
  /** Ends what keeps the copy from being taken for a leftover. */
  readonly release: () => void;
}

export class Exports {
  readonly #snapshots: Snapshots;
  readonly #log: Logger;
  readonly #sessions = new Map<string, Session>();

  constructor(snapshots: Snapshots, log: Logger) {
    this.#snapshots = snapshots;
    this.#log = log;
  }

  /** Begins an export of a volume as it is, or of a snapshot of it. The first frame is its header. */
  async *begin(
    volume: VolumeRecord,
    snapshot: string,
    firstChunk: number,
    signal: AbortSignal,
  ): AsyncGenerator<ExportPart> {
    if (this.#sessions.size >= maxExports)
      throw new CapsuleError("exhausted", `${maxExports} exports are under way, the most at once. Try again later.`);
    const session = await this.#open(volume, snapshot);
    this.#sessions.set(session.id, session);
    yield* this.#send(session, firstChunk, signal);
  }

  /** Goes on with one whose connection broke. Throws `notFound` when its copy is gone. */
  async *resume(exportId: string, firstChunk: number, signal: AbortSignal): AsyncGenerator<ExportPart> {
    const session = this.#sessions.get(exportId);
    if (session === undefined) {
      throw new CapsuleError(
        "notFound",
        "The export is not there any more: the capsule has waited too long, or has restarted. Begin anew.",
        {
          reason: "NO_EXPORT",
        },
      );
    }
    yield* this.#send(session, firstChunk, signal);
  }

  /** Ends all; their copies go. */
  async stop(): Promise<void> {
    await Promise.all([...this.#sessions.values()].map((session) => this.#close(session)));
  }

  async #open(volume: VolumeRecord, snapshot: string): Promise<Session> {
    const { backend, disk, sizeBytes, release } = await this.#snapshots.takeCopy(volume, snapshot);
    try {
      const path = await backend.pathOf(disk);
      // A volume that was not unmounted before: the copy gets what a mount would make of it.
      await replayJournal(path);
      const file = await open(path, "r");
      const [id, digests]: [string, Uint8Array[]] = [randomUUID(), []];
      return { id, volume: volume.name, backend, disk, file, sizeBytes, digests, caller: 0, timer: undefined, release };
    } catch (error) {
      release();
      await backend.remove(disk);
      throw error;
    }
  }

  async *#send(session: Session, firstChunk: number, signal: AbortSignal): AsyncGenerator<ExportPart> {
    const caller = ++session.caller;
    clearTimeout(session.timer);
    const chunks = Math.ceil(session.sizeBytes / chunkBytes);
    if (firstChunk > chunks) throw new CapsuleError("invalid", `firstChunk: the image has ${chunks} chunks`);
    const isOurs = (): boolean => session.caller === caller && !signal.aborted;
    let isDone = false;
    try {
      yield { kind: "start", start: { exportId: session.id, sizeBytes: session.sizeBytes, chunks } };
      if (firstChunk === 0) yield { kind: "data", bytes: documentFrame(headerOf(session)), nextChunk: 0 };
      // What another copy of the same snapshot has sent is only counted in.
      for (let i = session.digests.length; i < firstChunk && isOurs(); i++)
        session.digests[i] = (await pack(await readChunk(session, i))).digest;
      yield* batches(this.#packed(session, firstChunk, chunks, isOurs), firstChunk);
      if (!isOurs()) return;
      const trailer = { format: "capsule-volume-end", chunks, digest: imageDigest(session.digests) } as const;
      yield { kind: "data", bytes: documentFrame(trailer), nextChunk: chunks };
      isDone = true;
    } finally {
      if (isDone) await this.#close(session);
      else if (session.caller === caller)
        session.timer = setTimeout(() => void this.#close(session), patienceMs).unref();
    }
  }

  /** Frames in their order, a few of them ahead of who takes them. */
  async *#packed(session: Session, first: number, chunks: number, isOurs: () => boolean): AsyncGenerator<Uint8Array> {
    const waiting: Promise<Packed>[] = [];
    let next = first;
    for (let i = first; i < chunks && isOurs(); i++) {
      for (; next < chunks && waiting.length < ahead; next++) {
        const packing = readChunk(session, next).then(pack);
        // Awaited in its turn; a failure before that is no unhandled one.
        packing.catch(() => undefined);
        waiting.push(packing);
      }
      const packed = await waiting.shift();
      if (packed === undefined) return;
      session.digests[i] = packed.digest;
      yield packed.frame;
    }
  }

  async #close(session: Session): Promise<void> {
    if (!this.#sessions.delete(session.id)) return;
    clearTimeout(session.timer);
    session.caller++;
    session.release();
    await session.file.close();
    await session.backend.remove(session.disk).catch((error: unknown) => {
      this.#log.warn({ err: error, volume: session.volume }, "the copy of an export is removed later");
    });
  }
}

async function* batches(frames: AsyncIterable<Uint8Array>, first: number): AsyncGenerator<ExportPart> {
  let waiting: Uint8Array[] = [];
  let size = 0;
  let nextChunk = first;
  for await (const frame of frames) {
    waiting.push(frame);
    size += frame.length;
    nextChunk++;
    if (size < batchBytes) continue;
    yield { kind: "data", bytes: Buffer.concat(waiting), nextChunk };
    [waiting, size] = [[], 0];
  }
  if (waiting.length > 0) yield { kind: "data", bytes: Buffer.concat(waiting), nextChunk };
}

async function readChunk({ file, sizeBytes, volume }: Session, index: number): Promise<Buffer> {
  const at = index * chunkBytes;
  const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, sizeBytes - at));
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, at + done);
    if (bytesRead === 0) throw new CapsuleError("internal", `The copy of volume "${volume}" ends before its size.`);
    done += bytesRead;
  }
  return buffer;
}

function headerOf({ volume, sizeBytes }: Session): ImageHeader {
  return { format: "capsule-volume", version: 1, volume, sizeBytes, chunkBytes };
}
