/**
 * The log of a payload in a guest, as capsule-init writes that of a container: `current.log` and rotated ones. The guest
 * keeps each line until it has been written here, and every line has a later time than the one before; so the last line in
 * the file says where to go on, whoever was killed when.
 */
import { type FileHandle, mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";

export interface LogLimits {
  readonly dir: string;
  readonly maxBytes: number;
  /** The current file counts. */
  readonly maxFiles: number;
}

const name = "current.log";
/** More than the longest line. */
const tailBytes = 64 * 1024;
const newline = 0x0a;

export class PayloadLog {
  readonly #limits: LogLimits;
  #file: FileHandle;
  #size: number;
  /** Time of the last line that is written; undefined when there is none. */
  readonly last: Timestamp | undefined;

  private constructor(limits: LogLimits, file: FileHandle, size: number, last: Timestamp | undefined) {
    this.#limits = limits;
    this.#file = file;
    this.#size = size;
    this.last = last;
  }

  /** Opens it and takes off what a kill in the middle of a line has left. */
  static async open(limits: LogLimits): Promise<PayloadLog> {
    await mkdir(limits.dir, { recursive: true, mode: 0o750 });
    const path = join(limits.dir, name);
    const file = await open(path, "a+", 0o640);
    const { size } = await file.stat();
    const tail = Buffer.alloc(Math.min(size, tailBytes));
    await file.read(tail, 0, tail.length, size - tail.length);
    const whole = size - tail.length + tail.lastIndexOf(newline) + 1;
    if (whole < size) await file.truncate(whole);
    const before = whole === 0 ? await readFile(`${path}.1`).catch(() => Buffer.alloc(0)) : tail;
    return new PayloadLog(limits, file, whole, lastTime(before));
  }

  /** Appends whole lines; resolves when they are in the file. */
  async write(lines: Uint8Array): Promise<void> {
    let rest = Buffer.from(lines.buffer, lines.byteOffset, lines.length);
    while (rest.length > 0) {
      if (this.#size >= this.#limits.maxBytes) await this.#rotate();
      const room = this.#limits.maxBytes - this.#size;
      const piece = rest.length <= room ? rest : rest.subarray(0, cutAfterLine(rest, room));
      await this.#file.appendFile(piece);
      this.#size += piece.length;
      rest = rest.subarray(piece.length);
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #rotate(): Promise<void> {
    const path = join(this.#limits.dir, name);
    await this.#file.close();
    const oldest = this.#limits.maxFiles - 1;
    if (oldest === 0) await rm(path, { force: true });
    else await rm(`${path}.${oldest}`, { force: true });
    for (let i = oldest - 1; i >= 0; i--) {
      const from = i === 0 ? path : `${path}.${i}`;
      await rename(from, `${path}.${i + 1}`).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
    }
    this.#file = await open(path, "a+", 0o640);
    this.#size = 0;
  }
}

/** The line that crosses the limit still goes into the file, as with capsule-init. */
function cutAfterLine(lines: Buffer, room: number): number {
  const at = lines.indexOf(newline, room);
  return at < 0 ? lines.length : at + 1;
}

/** Time of the last whole line of a log in CRI form. */
function lastTime(text: Buffer): Timestamp | undefined {
  const lines = text.toString("latin1").trimEnd().split("\n");
  const found = /^(\S+)\.([0-9]{9})Z /.exec(lines.at(-1) ?? "");
  if (found === null) return undefined;
  const seconds = Date.parse(`${found[1]}Z`) / 1_000;
  return create(TimestampSchema, { seconds: BigInt(seconds), nanos: Number(found[2]) });
}
