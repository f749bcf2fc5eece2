/**
 * What a machine wrote to its disk, in order, and what a disk would hold if the power had gone in the middle of it. The log is that of
 * QEMU's block driver blklogwrites: the format of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).
 */
import { type FileHandle, open } from "node:fs/promises";
import { copyDisk } from "../../../image/qemu/machine.ts";
import type { Random } from "../random.ts";

const sectorBytes = 512;
/** sector, number of sectors, flags, length of further data; each 64 bits, little-endian. */
const entryBytes = 32;
const flags = { flush: 1n, discard: 4n } as const;

interface Entry {
  readonly isFlush: boolean;
  readonly atBytes: number;
  /** 0 for what carries no data: flushes, and discards, after which a disk may go on giving what it had. */
  readonly sizeBytes: number;
  /** Where its data is in the log. */
  readonly dataAt: number;
}

/** What becomes of writes that were not flushed yet: the disk had all of them, none, or some, and of the last one maybe a part. */
export const losses = ["none", "all", "some"] as const;
export type Loss = (typeof losses)[number];

export class WriteLog {
  readonly #file: FileHandle;
  readonly #entries: Entry[] = [];
  /** Where the next entry is. The first sector describes the log. */
  #end = sectorBytes;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Makes the file, which the machine is then started with. */
  static async create(path: string): Promise<WriteLog> {
    const file = await open(path, "wx+", 0o600);
    // QEMU writes into it, at places that it chooses; it takes none of it before it is needed.
    await file.truncate(64 * 1024 ** 3);
    return new WriteLog(file);
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  /** How many entries there are by now. What was acknowledged to the machine is among them. */
  async count(): Promise<number> {
    const header = Buffer.alloc(entryBytes);
    for (;;) {
      await this.#file.read(header, 0, entryBytes, this.#end);
      const [sector, sectors, flag] = [
        header.readBigUInt64LE(0),
        header.readBigUInt64LE(8),
        header.readBigUInt64LE(16),
      ];
      // No entry is all zeros: it has sectors or a flag. Here the log goes on later.
      if (sectors === 0n && flag === 0n) return this.#entries.length;
      const dataAt = this.#end + sectorBytes;
      const sizeBytes = (flag & flags.discard) === 0n ? Number(sectors) * sectorBytes : 0;
      const isFlush = (flag & flags.flush) !== 0n;
      this.#entries.push({ isFlush, atBytes: Number(sector) * sectorBytes, sizeBytes, dataAt });
      this.#end = dataAt + sizeBytes;
    }
  }

  entry(index: number): Entry {
    const found = this.#entries[index];
    if (found === undefined) throw new Error(`the log has no entry ${index}`);
    return found;
  }

  async write(disk: FileHandle, { dataAt, atBytes, sizeBytes }: Entry): Promise<void> {
    const chunk = Buffer.alloc(Math.min(sizeBytes, 1024 * 1024));
    for (let done = 0; done < sizeBytes; ) {
      const { bytesRead } = await this.#file.read(chunk, 0, Math.min(chunk.length, sizeBytes - done), dataAt + done);
      if (bytesRead === 0) throw new Error("the log ends in the middle of an entry");
      await disk.write(chunk, 0, bytesRead, atBytes + done);
      done += bytesRead;
    }
  }
}

/** Brings a disk from where the log began to one cut after the other, each later than the one before. */
export class Replay {
  readonly #log: WriteLog;
  readonly #path: string;
  /** Entries before it are on the disk at `path`. */
  #done = 0;

  /** `path`: the disk when the log began; it is changed. */
  constructor(log: WriteLog, path: string) {
    this.#log = log;
    this.#path = path;
  }

  /** Writes to `target` the disk after a power cut that came before entry `index`. What was flushed before it is there. */
  async cut(index: number, loss: Loss, random: Random, target: string): Promise<void> {
    let flushed = this.#done;
    for (let i = this.#done; i < index; i++) if (this.#log.entry(i).isFlush) flushed = i;
    const disk = await open(this.#path, "r+");
    for (; this.#done < flushed; this.#done++) await this.#log.write(disk, this.#log.entry(this.#done));
    await disk.close();
    await copyDisk(this.#path, target);
    const survivor = await open(target, "r+");
    for (let i = flushed; i < index && loss !== "all"; i++) {
      const entry = this.#log.entry(i);
      if (loss === "none") await this.#log.write(survivor, entry);
      else if (random.below(2) === 0) await this.#log.write(survivor, i === index - 1 ? torn(entry, random) : entry);
    }
    await survivor.close();
  }
}

/** A disk writes whole sectors. */
function torn(entry: Entry, random: Random): Entry {
  return { ...entry, sizeBytes: random.below(entry.sizeBytes / sectorBytes + 1) * sectorBytes };
}
