/**
 * The format of an exported volume (docs/volume-image.md), as both ends know it: a zstd file whose frames can be told
 * apart without unpacking them. `zstd -d` makes the filesystem's image of it.
 */

/** Bytes of the image in each frame; fewer in the last. */
export const chunkBytes = 1024 * 1024;
/** A frame of one chunk, which may be a little larger than the chunk when it cannot be compressed. */
const maxFrameBytes = 2 * chunkBytes;
const zstdMagic = 0xfd2fb528;
/** Of the skippable frames that are ours; others are passed over. */
const ownMagic = 0x184d2a5c;

/** In the first frame, skippable. */
export interface ImageHeader {
  readonly format: "capsule-volume";
  readonly version: 1;
  readonly volume: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
}

/** In the last frame, skippable. */
export interface ImageTrailer {
  readonly format: "capsule-volume-end";
  readonly chunks: number;
  /** Hex SHA-256 of the SHA-256 digests of all chunks, one after the other. */
  readonly digest: string;
}

/** The data is no image of a volume. */
export class ImageFormatError extends Error {
  override readonly name = "ImageFormatError";
}

/** A header or trailer as a skippable frame (RFC 8878, 3.1.2). */
export function documentFrame(document: ImageHeader | ImageTrailer): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(document));
  const frame = new Uint8Array(8 + text.length);
  const view = new DataView(frame.buffer);
  view.setUint32(0, ownMagic, true);
  view.setUint32(4, text.length, true);
  frame.set(text, 8);
  return frame;
}

export type Frame =
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  | { readonly kind: "document"; readonly document: ImageHeader | ImageTrailer };

/** Splits a stream into frames. Holds one at a time; throws ImageFormatError for what is none, or is cut. */
export async function* framesOf(source: AsyncIterable<Uint8Array>): AsyncGenerator<Frame> {
  const input = new Input(source);
  while (await input.has(1)) {
    if (!(await input.has(8))) throw input.cut();
    const magic = input.view().getUint32(0, true);
    if ((magic & 0xfffffff0) >>> 0 === 0x184d2a50) {
      const length = 8 + input.view().getUint32(4, true);
      if (length > maxFrameBytes) throw input.foreign();
      await input.need(length);
      const bytes = input.take(length);
      if (magic === ownMagic) yield { kind: "document", document: parse(bytes.subarray(8), input) };
    } else if (magic === zstdMagic) {
      yield { kind: "data", bytes: input.take(await frameLength(input)) };
    } else throw input.foreign();
  }
}

/** RFC 8878, 3.1.1: header, blocks, and a checksum if the header says so. */
async function frameLength(input: Input): Promise<number> {
  const descriptor = input.view().getUint8(4);
  const single = (descriptor >> 5) & 1;
  const dictionary = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const contentSize = [single, 2, 4, 8][descriptor >> 6] ?? 0;
  let length = 5 + (1 - single) + dictionary + contentSize;
  for (;;) {
    await input.need(length + 3);
    const view = input.view();
    const block = view.getUint16(length, true) | (view.getUint8(length + 2) << 16);
    const type = (block >> 1) & 3;
    if (type === 3) throw input.foreign();
    // A run has one byte, whatever its length.
    length += 3 + (type === 1 ? 1 : block >> 3);
    if (length > maxFrameBytes) throw input.foreign();
    if ((block & 1) === 1) break;
  }
  length += ((descriptor >> 2) & 1) * 4;
  await input.need(length);
  return length;
}

function parse(bytes: Uint8Array, input: Input): ImageHeader | ImageTrailer {
  try {
    const document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as unknown;
    if (isHeader(document) || isTrailer(document)) return document;
  } catch {
    // said below
  }
  throw input.foreign();
}

function isHeader(value: unknown): value is ImageHeader {
  const header = value as Partial<ImageHeader> | null;
  if (header?.format !== "capsule-volume") return false;
  return (
    header.version === 1 &&
    typeof header.volume === "string" &&
    Number.isSafeInteger(header.sizeBytes) &&
    header.chunkBytes === chunkBytes
  );
}

function isTrailer(value: unknown): value is ImageTrailer {
  const trailer = value as Partial<ImageTrailer> | null;
  if (trailer?.format !== "capsule-volume-end") return false;
  return Number.isSafeInteger(trailer.chunks) && typeof trailer.digest === "string";
}

/** A stream that can be looked ahead in. */
class Input {
  readonly #source: AsyncIterator<Uint8Array>;
  #buffer: Uint8Array = new Uint8Array(0);
  #taken = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Whether there are so many bytes more. */
  async has(count: number): Promise<boolean> {
    if (this.#buffer.length >= count) return true;
    const parts = [this.#buffer];
    let length = this.#buffer.length;
    while (length < count) {
      const { value, done } = await this.#source.next();
      if (done === true) break;
      parts.push(value);
      length += value.length;
    }
    const joined = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    this.#buffer = joined;
    return length >= count;
  }

  async need(count: number): Promise<void> {
    if (!(await this.has(count))) throw this.cut();
  }

  view(): DataView {
    return new DataView(this.#buffer.buffer, this.#buffer.byteOffset, this.#buffer.length);
  }

  take(count: number): Uint8Array {
    const bytes = this.#buffer.subarray(0, count);
    this.#buffer = this.#buffer.subarray(count);
    this.#taken += count;
    return bytes;
  }

  cut(): ImageFormatError {
    return new ImageFormatError(`it ends in the middle, at byte ${this.#taken + this.#buffer.length}`);
  }

  foreign(): ImageFormatError {
    return new ImageFormatError(`it is no export of a volume, as byte ${this.#taken} tells`);
  }
}
