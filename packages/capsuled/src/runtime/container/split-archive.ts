/**
 * Takes the large blobs of an OCI layout out of an archive as it comes: they have a faster way into containerd than its
 * import, which finds them by their digests afterwards. All else is passed on as it is, byte for byte, and so is the
 * rest of an archive from the first thing on that is not plain: whatever is wrong with it, containerd says.
 */
import { CapsuleError } from "../../errors.ts";

/** A blob that was taken out. */
export interface TakenBlob {
  /** As its name in the archive claims. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** The block before its content. */
  readonly header: Uint8Array;
}

/** The next bytes of a blob, at most `limit`; undefined at its end. */
export type NextPiece = (limit: number) => Promise<Buffer | undefined>;

export interface ArchiveParts {
  /** Takes a piece of what is passed on; it is good until this resolves. */
  readonly pass: (data: Uint8Array) => Promise<void>;
  /** Takes the content of a blob, or as much of it as it wants. */
  readonly take: (blob: TakenBlob, next: NextPiece) => Promise<void>;
  /** Called before the archive's end when blobs were taken of one that is no OCI layout: it needs them inside. */
  readonly giveBack: (blobs: readonly TakenBlob[]) => Promise<void>;
}

const block = 512;
/** Below this a blob is not worth calls of its own. */
const minBytes = 64 * 1024;
const blobName = /^(?:\.\/)?blobs\/sha256\/([0-9a-f]{64})$/;
const layoutName = /^(?:\.\/)?oci-layout$/;
/** Type flags of POSIX tar. */
const file = new Set(["0", "\0"]);
const withoutData = new Set(["1", "2", "5"]);
/** Records of pax, and long names of GNU tar. */
const extensions = new Set(["x", "L", "K"]);
const maxExtensionBytes = 64 * 1024;

export async function splitArchive(data: AsyncIterable<Uint8Array>, parts: ArchiveParts): Promise<void> {
  const input = new Input(data);
  const taken: TakenBlob[] = [];
  let isLayout = false;
  /** Extensions say more of the entry behind them, so that one is passed on with them. */
  let isExtended = false;
  let header = await input.exactly(block);
  for (; header !== undefined; header = await input.exactly(block)) {
    const entry = entryOf(header);
    if (entry === undefined) break;
    isLayout ||= layoutName.test(entry.name);
    const padding = (block - (entry.sizeBytes % block)) % block;
    if (extensions.has(entry.type)) {
      const extension = await input.exactly(entry.sizeBytes + padding);
      await parts.pass(header);
      if (extension === undefined) return await passRest(undefined, input, parts);
      await parts.pass(extension);
      if (changesSize(extension)) {
        header = undefined;
        break;
      }
      isExtended = true;
      continue;
    }
    const digest = file.has(entry.type) && !isExtended ? blobName.exec(entry.name)?.[1] : undefined;
    isExtended = false;
    if (digest === undefined || entry.sizeBytes < minBytes) {
      await parts.pass(header);
      await passUpTo(input, entry.sizeBytes + padding, parts);
      continue;
    }
    const blob = { digest: `sha256:${digest}`, sizeBytes: entry.sizeBytes, header: Uint8Array.from(header) };
    await takeOut(input, blob, parts);
    await input.exactly(padding);
    taken.push(blob);
  }
  if (taken.length > 0 && !isLayout) await parts.giveBack(taken);
  await passRest(header, input, parts);
}

async function passRest(first: Uint8Array | undefined, input: Input, parts: ArchiveParts): Promise<void> {
  if (first !== undefined) await parts.pass(first);
  await passUpTo(input, Number.POSITIVE_INFINITY, parts);
}

async function takeOut(input: Input, blob: TakenBlob, parts: ArchiveParts): Promise<void> {
  let left = blob.sizeBytes;
  const next = async (limit: number): Promise<Buffer | undefined> => {
    const piece = left === 0 ? undefined : await input.some(Math.min(left, limit));
    left -= piece?.length ?? 0;
    return piece;
  };
  await parts.take(blob, next);
  // One that is there already was not read.
  while ((await next(left)) !== undefined);
  // Without it the rest would look like an archive that ends in order.
  if (left > 0) {
    const message = `The archive was refused: it ends within ${blob.digest}`;
    throw new CapsuleError("invalid", message, { reason: "BROKEN_ARCHIVE" });
  }
}

async function passUpTo(input: Input, length: number, parts: ArchiveParts): Promise<void> {
  for (let left = length; left > 0; ) {
    const piece = await input.some(left);
    if (piece === undefined) return;
    left -= piece.length;
    await parts.pass(piece);
  }
}

interface Entry {
  readonly name: string;
  readonly type: string;
  readonly sizeBytes: number;
}

/** Undefined for all that is not plain: the end, damage, extensions, and sizes and names that do not fit the old form. */
function entryOf(header: Buffer): Entry | undefined {
  const text = (at: number, length: number): string => {
    const field = header.toString("latin1", at, at + length);
    const end = field.indexOf("\0");
    return end === -1 ? field : field.slice(0, end);
  };
  const octal = (at: number, length: number): number => {
    const digits = text(at, length).trim();
    return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
  };
  let sum = 8 * 0x20; // the checksum counts as blanks
  for (const [at, byte] of header.entries()) if (at < 148 || at >= 156) sum += byte;
  if (octal(148, 8) !== sum) return undefined;
  const type = String.fromCharCode(header[156] ?? 0);
  const sizeBytes = octal(124, 12);
  if (Number.isNaN(sizeBytes) || text(345, 155) !== "") return undefined;
  const isKnown =
    file.has(type) ||
    (withoutData.has(type) && sizeBytes === 0) ||
    (extensions.has(type) && sizeBytes <= maxExtensionBytes);
  return isKnown ? { name: text(0, 100), type, sizeBytes } : undefined;
}

/** Whether the entry behind it may be of another size than its header says. */
function changesSize(extension: Buffer): boolean {
  return /(?:size|GNU\.sparse)/.test(extension.toString("latin1"));
}

/** What comes, in pieces as large as are wanted. */
class Input {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(data: AsyncIterable<Uint8Array>) {
    this.#source = data[Symbol.asyncIterator]();
  }

  /** At most `limit` bytes, as many as there are; undefined at the end. */
  async some(limit: number): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const { value, done } = await this.#source.next();
      if (done === true) return undefined;
      this.#rest = Buffer.from(value.buffer, value.byteOffset, value.length);
    }
    const piece = this.#rest.subarray(0, limit);
    this.#rest = this.#rest.subarray(piece.length);
    return piece;
  }

  /** Undefined when the end comes first: what there was is the next piece then. */
  async exactly(length: number): Promise<Buffer | undefined> {
    while (this.#rest.length < length) {
      const { value, done } = await this.#source.next();
      if (done === true) return undefined;
      this.#rest = Buffer.concat([this.#rest, value]);
    }
    return await this.some(length);
  }
}
