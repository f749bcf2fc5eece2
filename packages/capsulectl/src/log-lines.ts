/** Takes the lines of LogsResponse apart: `2026-01-31T12:00:00.123456789Z stdout F text` (proto/capsule/v1/workload.proto). */

const newline = 10;
const blank = 0x20;
const stampLength = "2026-01-31T12:00:00.123456789Z".length;
/** Of the time, what people are shown: milliseconds. */
const shownStampLength = "2026-01-31T12:00:00.123".length;
const streamAt = stampLength + 1;
const tagAt = streamAt + "stdout ".length;
const textAt = tagAt + "F ".length;

type StreamName = "stdout" | "stderr";

/** What a workload wrote to each of its streams. */
export type Output = Readonly<Record<StreamName, Uint8Array>>;

/** Turns lines into what is printed. They may be cut anywhere: messages come in parts (packages/api/src/bulk.ts). */
export class LinePrinter {
  readonly #timestamps: boolean;
  /** Whether the next line of the stream goes on with the one before. */
  readonly #isContinued: Record<StreamName, boolean> = { stdout: false, stderr: false };
  /** The start of a line whose end has not come yet. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(timestamps: boolean) {
    this.#timestamps = timestamps;
  }

  textOf(part: Uint8Array): Output {
    const block = Buffer.from(part.buffer, part.byteOffset, part.byteLength);
    const end = block.lastIndexOf(newline) + 1;
    if (end === 0) {
      this.#rest = Buffer.concat([this.#rest, block]);
      return { stdout: block.subarray(0, 0), stderr: block.subarray(0, 0) };
    }
    const first = this.#rest.length === 0 ? 0 : block.indexOf(newline) + 1;
    // What is printed of a line is never longer than the line itself.
    const printed = new Printed(this.#rest.length + block.length);
    if (first > 0) this.#print(Buffer.concat([this.#rest, block.subarray(0, first)]), printed);
    this.#print(block.subarray(first, end), printed);
    this.#rest = Buffer.from(block.subarray(end));
    return printed.output();
  }

  #print(lines: Buffer, printed: Printed): void {
    for (let start = 0, end = 0; start < lines.length; start = end + 1) {
      end = lines.indexOf(newline, start);
      if (end - start < textAt || lines[start + stampLength] !== blank) continue; // torn by a power cut
      const stream = lines[start + streamAt + 3] === 0x6f ? "stdout" : "stderr";
      if (this.#timestamps && !this.#isContinued[stream]) {
        printed.add(stream, lines, start, start + shownStampLength);
        printed.add(stream, stampEnd, 0, stampEnd.length);
      }
      this.#isContinued[stream] = lines[start + tagAt] === 0x50;
      // With its newline.
      printed.add(stream, lines, start + textAt, this.#isContinued[stream] ? end : end + 1);
    }
  }
}

const stampEnd = Buffer.from("Z ");

/** Room for what is printed, taken when there is something for it. */
class Printed {
  readonly #size: number;
  readonly #buffers: Partial<Record<StreamName, Buffer>> = {};
  readonly #filled: Record<StreamName, number> = { stdout: 0, stderr: 0 };

  constructor(size: number) {
    this.#size = size;
  }

  add(stream: StreamName, from: Buffer, start: number, end: number): void {
    this.#buffers[stream] ??= Buffer.allocUnsafe(this.#size);
    this.#filled[stream] += from.copy(this.#buffers[stream], this.#filled[stream], start, end);
  }

  output(): Output {
    const of = (stream: StreamName): Uint8Array =>
      this.#buffers[stream]?.subarray(0, this.#filled[stream]) ?? new Uint8Array();
    return { stdout: of("stdout"), stderr: of("stderr") };
  }
}
