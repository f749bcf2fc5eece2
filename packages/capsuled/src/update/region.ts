/** A place on a disk with a fixed size: a partition, or the blocks of a file that was laid out beforehand. */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { runTool } from "../tool.ts";

export interface Extent {
  readonly startBytes: number;
  readonly sizeBytes: number;
}

export class Region {
  readonly device: string;
  readonly sizeBytes: number;
  readonly #extents: readonly Extent[];

  constructor(device: string, extents: readonly Extent[]) {
    this.device = device;
    this.#extents = extents;
    this.sizeBytes = extents.reduce((sum, extent) => sum + extent.sizeBytes, 0);
  }

  async open(access: "read" | "write"): Promise<OpenRegion> {
    const flags = access === "read" ? constants.O_RDONLY : constants.O_RDWR;
    return new OpenRegion(await open(this.device, flags), this);
  }

  /** Opened for this alone. */
  async read(atBytes: number, sizeBytes: number): Promise<Buffer> {
    const opened = await this.open("read");
    try {
      return await opened.read(atBytes, sizeBytes);
    } finally {
      await opened.close();
    }
  }

  /**
   * Lets the next read come from the disk and not from memory (blockdev(8), --flushbufs). Does nothing for a file, which
   * tests have instead of a disk.
   */
  async forgetCached(): Promise<void> {
    const handle = await open(this.device, "r");
    const isDisk = (await handle.stat()).isBlockDevice();
    await handle.close();
    if (isDisk) await runTool(["blockdev", "--flushbufs", this.device]);
  }

  /** The parts of the device that hold these bytes of the region. Throws RangeError outside of it. */
  parts(atBytes: number, sizeBytes: number): Extent[] {
    if (atBytes < 0 || atBytes + sizeBytes > this.sizeBytes)
      throw new RangeError(
        `${atBytes}+${sizeBytes} is outside of a place of ${this.sizeBytes} bytes on ${this.device}`,
      );
    const parts: Extent[] = [];
    let skip = atBytes;
    let left = sizeBytes;
    for (const extent of this.#extents) {
      if (left === 0) break;
      if (skip >= extent.sizeBytes) {
        skip -= extent.sizeBytes;
        continue;
      }
      const size = Math.min(left, extent.sizeBytes - skip);
      parts.push({ startBytes: extent.startBytes + skip, sizeBytes: size });
      left -= size;
      skip = 0;
    }
    return parts;
  }
}

export class OpenRegion {
  readonly region: Region;
  readonly #file: FileHandle;

  constructor(file: FileHandle, region: Region) {
    this.#file = file;
    this.region = region;
  }

  async write(data: Uint8Array, atBytes: number): Promise<void> {
    let done = 0;
    for (const { startBytes, sizeBytes } of this.region.parts(atBytes, data.length)) {
      for (let written = 0; written < sizeBytes; ) {
        const from = done + written;
        const { bytesWritten } = await this.#file.write(data, from, sizeBytes - written, startBytes + written);
        written += bytesWritten;
      }
      done += sizeBytes;
    }
  }

  async read(atBytes: number, sizeBytes: number): Promise<Buffer> {
    const data = Buffer.allocUnsafe(sizeBytes);
    let done = 0;
    for (const { startBytes, sizeBytes: size } of this.region.parts(atBytes, sizeBytes)) {
      for (let read = 0; read < size; ) {
        const { bytesRead } = await this.#file.read(data, done + read, size - read, startBytes + read);
        if (bytesRead === 0) throw new Error(`${this.region.device} ends before ${startBytes + size} bytes`);
        read += bytesRead;
      }
      done += size;
    }
    return data;
  }

  /** SHA-256 of its first bytes, in hex. Yields the bytes of each step. */
  async *digest(sizeBytes: number): AsyncGenerator<number, string> {
    const hash = createHash("sha256");
    for (const { at, size } of stepsOf(0, sizeBytes)) {
      hash.update(await this.read(at, size));
      yield size;
    }
    return hash.digest("hex");
  }

  /** Everything that was written is on the disk when this resolves. */
  async sync(): Promise<void> {
    await this.#file.datasync();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

export const stepBytes = 1024 * 1024;

/** The parts in which much is read or copied. */
export function* stepsOf(
  fromBytes: number,
  toBytes: number,
): Generator<{ readonly at: number; readonly size: number }> {
  for (let at = fromBytes; at < toBytes; at += stepBytes) yield { at, size: Math.min(stepBytes, toBytes - at) };
}
