/**
 * Imports of volumes. What comes is written to a disk that is promised to nobody; only when all of it is there, its digest
 * is right and e2fsck has nothing to say does a row make a volume of it. A caller whose connection broke goes on where he
 * was.
 */
import { type FileHandle, open } from "node:fs/promises";
import { clone } from "@bufbuild/protobuf";
import { type VolumeSpec, VolumeSpecSchema } from "@capsule/api";
import {
  chunkBytes,
  framesOf,
  ImageFormatError,
  type ImageHeader,
  type ImageTrailer,
} from "@capsule/api/volume-image.ts";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { Store } from "../../store/store.ts";
import { uidOfText } from "../../store/uid.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { scratchDisk, wholeExtents } from "../layout.ts";
import type { DiskId, PoolBackend } from "../pool/backend.ts";
import type { Pools } from "../pool/pools.ts";
import { checkExt4, readSuperblock, replayJournal } from "../tools/ext4.ts";
import { imageDigest, unpack } from "./chunks.ts";
import type { VolumeController } from "./controller.ts";
import type { VolumeManager } from "./manager.ts";
import { addEvent } from "./reports.ts";

/** How long what has come waits for the rest, in milliseconds. */
const patienceMs = 10 * 60_000;
const maxImports = 8;
/** Frames that are unpacked and written at once. */
const atOnce = 4;

interface Session {
  readonly id: string;
  readonly spec: VolumeSpec;
  readonly digests: Uint8Array[];
  /** Known with the header. */
  target:
    | { readonly header: ImageHeader; readonly backend: PoolBackend; readonly disk: DiskId; readonly file: FileHandle }
    | undefined;
  /** Counts its callers: an earlier one ends when the next has come. */
  caller: number;
  /** What the present caller does to the disk, or an earlier one still does. */
  working: Promise<unknown>;
  /** Since all of it was there: whoever comes now gets this result. */
  finishing: Promise<VolumeRecord> | undefined;
  timer: NodeJS.Timeout | undefined;
  release: () => void;
}

export interface ImportsOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly controller: VolumeController;
  readonly manager: VolumeManager;
  readonly log: Logger;
}

export class Imports {
  readonly #options: ImportsOptions;
  readonly #sessions = new Map<string, Session>();

  constructor(options: ImportsOptions) {
    this.#options = options;
  }

  /** The next chunk that an import wants. Throws `notFound` when there is none of this id. */
  nextChunk(importId: string): number {
    const session = this.#sessions.get(importId);
    if (session !== undefined) return session.digests.length;
    // Done, and only the answer was lost: no chunk is wanted any more.
    const done = this.#volumeOf(importId);
    if (done !== undefined) return Math.ceil(Number(done.spec.sizeBytes) / chunkBytes);
    throw new CapsuleError(
      "notFound",
      "The import is not there any more: the capsule has waited too long, or has restarted. Begin anew.",
      {
        reason: "NO_IMPORT",
      },
    );
  }

  /**
   * Takes the frames of an image, header first, or from `firstChunk` on, which must not be after the one that the import of
   * this id wants. Resolves with the volume when the trailer was right, and again for whoever repeats the call because he did not hear of it.
   * Throws `invalid` for what is no image, is cut or is damaged, of which nothing stays; `conflict` when there is a volume
   * of this name.
   */
  async receive(
    importId: string,
    spec: VolumeSpec,
    firstChunk: number,
    data: AsyncIterable<Uint8Array>,
  ): Promise<VolumeRecord> {
    const done = this.#volumeOf(importId);
    if (done?.name === spec.name) return done;
    const session = this.#sessions.get(importId) ?? this.#begin(importId, spec, firstChunk);
    if (session.finishing !== undefined) return await session.finishing;
    const caller = ++session.caller;
    const isOurs = (): boolean => session.caller === caller;
    clearTimeout(session.timer);
    let keep = false;
    try {
      const trailer = await this.#take(session, firstChunk, data, isOurs);
      if (!isOurs()) throw takenOver();
      session.finishing = this.#finish(session, trailer);
      return await session.finishing;
    } catch (error) {
      // A connection that broke is no fault of the image: the rest may come.
      keep = error instanceof OutOfStep || !(error instanceof ImageFormatError || error instanceof CapsuleError);
      if (error instanceof ImageFormatError)
        throw new CapsuleError("invalid", `Nothing was imported: ${error.message}.`, {
          cause: error,
          reason: "BAD_IMAGE",
        });
      throw error;
    } finally {
      if (isOurs()) {
        if (keep && session.finishing === undefined)
          session.timer = setTimeout(() => void this.#close(session), patienceMs).unref();
        else await this.#close(session);
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all(
      [...this.#sessions.values()].map(async (session) => {
        // Its row may be written at any moment: the disk is not to be taken away under it.
        await session.finishing?.catch(() => undefined);
        await this.#close(session);
      }),
    );
  }

  /** The volume that an import has made, if it still has that disk. */
  #volumeOf(importId: string): VolumeRecord | undefined {
    const { volumes } = this.#options.store;
    const name = volumes.ownerOfDisk(diskUidOf(importId));
    return name === undefined ? undefined : volumes.get(name);
  }

  #begin(id: string, spec: VolumeSpec, firstChunk: number): Session {
    if (firstChunk !== 0) this.nextChunk(id);
    if (!/^[A-Za-z0-9-]{16,64}$/.test(id)) {
      const description = "16 to 64 letters, digits and dashes are needed";
      throw new CapsuleError("invalid", `importId: ${description}`, {
        violations: [{ path: "importId", description }],
      });
    }
    const { volumes, snapshots } = this.#options.store;
    const uid = diskUidOf(id);
    if (volumes.ownerOfDisk(uid) !== undefined || snapshots.byDisk(uid) !== undefined)
      throw new CapsuleError("conflict", "The import of this id has made another volume already: choose another id.", {
        reason: "IMPORT_DONE",
      });
    if (this.#sessions.size >= maxImports)
      throw new CapsuleError("exhausted", `${maxImports} imports are under way, the most at once. Try again later.`);
    const session: Session = {
      id,
      spec,
      digests: [],
      target: undefined,
      caller: 0,
      working: Promise.resolve(),
      finishing: undefined,
      timer: undefined,
      release: () => undefined,
    };
    this.#sessions.set(id, session);
    return session;
  }

  async #take(
    session: Session,
    firstChunk: number,
    data: AsyncIterable<Uint8Array>,
    isOurs: () => boolean,
  ): Promise<ImageTrailer> {
    const work = async (what: () => Promise<void>): Promise<void> => {
      // An earlier caller may be in the middle of something.
      await session.working.catch(() => undefined);
      if (!isOurs()) throw takenOver();
      session.working = what();
      await session.working;
    };
    // Of what an earlier caller has sent, more may have been taken since this one asked where to go on.
    let taken = 0;
    await work(async () => {
      taken = session.digests.length - firstChunk;
      if (taken < 0) throw new OutOfStep(session.digests.length, firstChunk);
    });
    let waiting: Uint8Array[] = [];
    const write = async (): Promise<void> => {
      const frames = waiting;
      waiting = [];
      await work(() => this.#write(session, frames));
    };
    let isFirst = true;
    for await (const frame of framesOf(data)) {
      if (frame.kind === "data" && taken > 0) taken--;
      else if (frame.kind === "data") {
        waiting.push(frame.bytes);
        if (waiting.length >= atOnce) await write();
      } else {
        await write();
        const { document } = frame;
        if (document.format !== "capsule-volume") return document;
        // Of a caller who could not know that it had come.
        const isAgain = isFirst && firstChunk === 0 && session.target?.header.sizeBytes === document.sizeBytes;
        if (!isAgain) await work(() => this.#makeDisk(session, document));
      }
      isFirst = false;
    }
    await write();
    throw new ImageFormatError(
      session.target === undefined ? "it is empty" : `it ends after ${session.digests.length} MiB, without its end`,
    );
  }

  /** Makes the disk, once the header tells its size. */
  async #makeDisk(session: Session, header: ImageHeader): Promise<void> {
    const { manager, pools, store, controller } = this.#options;
    if (session.target !== undefined) throw new ImageFormatError("it has a second beginning");
    const spec = clone(VolumeSpecSchema, session.spec);
    if (spec.sizeBytes < BigInt(header.sizeBytes)) spec.sizeBytes = BigInt(Math.max(0, header.sizeBytes));
    manager.checkNew(spec);
    session.spec.sizeBytes = spec.sizeBytes;
    const kept = store.volumes.list().some((one) => one.provisioned);
    const backend = kept ? await pools.get(spec.pool).use() : await pools.get(spec.pool).open(true);
    if (backend === undefined) throw new CapsuleError("unavailable", "The pool is not there.");
    const uid = diskUidOf(session.id);
    const disk = { name: scratchDisk(uid), uid };
    session.release = controller.reserve(uid);
    // Of the same import, from before a restart of capsuled.
    await backend.remove(disk);
    await backend.create(disk, wholeExtents(header.sizeBytes));
    session.target = { header, backend, disk, file: await open(await backend.pathOf(disk), "r+") };
  }

  async #write(session: Session, frames: readonly Uint8Array[]): Promise<void> {
    if (frames.length === 0) return;
    const { target, digests } = session;
    if (target === undefined) throw new ImageFormatError("it has no beginning");
    const first = digests.length;
    const written = await Promise.all(
      frames.map(async (frame, i) => {
        const at = (first + i) * chunkBytes;
        const wanted = Math.min(chunkBytes, target.header.sizeBytes - at);
        const unpacked = await unpack(frame).catch((error: unknown) => {
          throw new ImageFormatError(`it is damaged at MiB ${first + i}`, { cause: error });
        });
        if (unpacked.chunk.length !== wanted) throw new ImageFormatError(`it has another length at MiB ${first + i}`);
        if (!unpacked.isEmpty) await writeAll(target.file, unpacked.chunk, at);
        return unpacked.digest;
      }),
    );
    digests.push(...written);
  }

  async #finish(session: Session, { chunks, digest }: ImageTrailer): Promise<VolumeRecord> {
    const { store, controller, manager } = this.#options;
    const { target, digests, spec } = session;
    if (target === undefined) throw new ImageFormatError("it has no beginning");
    const { header, backend, disk, file } = target;
    const wanted = Math.ceil(header.sizeBytes / chunkBytes);
    if (digests.length !== wanted || chunks !== wanted)
      throw new ImageFormatError(`it has ${digests.length} of ${wanted} MiB`);
    if (imageDigest(digests) !== digest) throw new ImageFormatError("its digest is another one than it says");
    await file.sync();
    await checkImage(backend, disk);
    const record = store.transaction(() => manager.adopt(spec, disk.uid));
    // Its row speaks of the disk from here on: what follows may be cut.
    session.release();
    session.target = undefined;
    await file.close();
    await controller.exclusive(record.uid, () => controller.advance(record.uid));
    const message = `Imported an export of volume ${header.volume}`;
    addEvent(store, record, { reason: "Imported", message });
    return store.volumes.byUid(record.uid) ?? record;
  }

  async #close(session: Session): Promise<void> {
    if (!this.#sessions.delete(session.id)) return;
    clearTimeout(session.timer);
    session.caller++;
    await session.working.catch(() => undefined);
    const { target } = session;
    session.target = undefined;
    await target?.file.close().catch(() => undefined);
    session.release();
    await target?.backend.remove(target.disk).catch((error: unknown) => {
      this.#options.log.warn({ err: error, volume: session.spec.name }, "what an import has left is removed later");
    });
  }
}

/** The caller goes on after the chunk that the import wants; he may ask where, and come again. */
class OutOfStep extends CapsuleError {
  constructor(wanted: number, given: number) {
    super("precondition", `The import goes on at chunk ${wanted}, not at ${given}.`);
  }
}

function takenOver(): Error {
  return new Error("another caller goes on with this import");
}

/** An import's disk is known by its id alone, after a restart too: so it is seen that the import is done. */
function diskUidOf(importId: string): string {
  return uidOfText("d", importId);
}

/** Throws `invalid` with the words of e2fsck. The journal is replayed, as by a mount; nothing else is changed. */
async function checkImage(backend: PoolBackend, disk: DiskId): Promise<void> {
  const path = await backend.pathOf(disk);
  const refused = (why: string): CapsuleError =>
    new CapsuleError("invalid", `Nothing was imported: ${why}`, { reason: "BAD_FILESYSTEM" });
  if ((await readSuperblock(path)) === undefined) throw refused("the image holds no ext4 filesystem.");
  await replayJournal(path);
  const { state, report } = await checkExt4(path);
  if (state !== "clean") throw refused(`its filesystem is damaged: ${report.split("\n").slice(0, 3).join("; ")}`);
}

async function writeAll(file: FileHandle, data: Uint8Array, at: number): Promise<void> {
  try {
    for (let done = 0; done < data.length; ) {
      const { bytesWritten } = await file.write(data, done, data.length - done, at + done);
      done += bytesWritten;
    }
  } catch (error) {
    if (!["ENOSPC", "EIO"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    throw new CapsuleError("exhausted", "Nothing was imported: the pool is full.", {
      cause: error,
      reason: "POOL_FULL",
    });
  }
}
