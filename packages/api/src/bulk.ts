/**
 * Bulk streams: files, images, logs and output, whose messages are a field of bytes and little else. What is sent is
 * gRPC's own format, but without the library's copies. Each of its copies is a large buffer outside of V8's heap, and
 * every few megabytes of them make V8 mark its whole heap: that was more than half of the processor time
 * (docs/benchmarks.md).
 */
import { create, type DescField, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import { Code, ConnectError } from "@connectrpc/connect";

/** Flags and length before every message (gRPC over HTTP/2). */
const headBytes = 5;
const compressedFlag = 1;
/** A tag of one byte, and a length of at most 32 bits. */
const maxFieldHeadBytes = 6;
const lengthDelimited = 2;
const scalarBytes = 12;

const isBytes = ({ fieldKind, scalar }: DescField): boolean => fieldKind === "scalar" && scalar === scalarBytes;

/** Fields of bytes of a message that has at most one field set: its only one, or one of its only choice. By number. */
export function bulkFields(schema: DescMessage): ReadonlyMap<number, DescField> {
  const [choice] = schema.oneofs;
  const isOne = choice === undefined ? schema.fields.length === 1 : choice.fields.length === schema.fields.length;
  // A number up to 15 has a tag of one byte.
  const fields = schema.fields.filter((field) => isOne && isBytes(field) && field.number < 16);
  return new Map(fields.map((field) => [field.number, field]));
}

/** Whether a method streams bytes in either direction. */
export function isBulk({ input, output }: { readonly input: DescMessage; readonly output: DescMessage }): boolean {
  return [input, output].some((schema) => bulkFields(schema).size > 0);
}

/** A message as it is sent: all but its (first) bytes, and those as they are in the message. */
export function encodeBulk<D extends DescMessage>(schema: D, message: MessageShape<D>): [Buffer, Uint8Array] {
  const reflected = reflect(schema, message, false);
  const field = schema.fields.find((one) => isBytes(one) && reflected.isSet(one));
  if (field === undefined) {
    const whole = toBinary(schema, message);
    return [headOf(whole.length), whole];
  }
  const data = reflected.get(field) as Uint8Array;
  // Fields may come in any order, so the bytes can be last.
  const others = Object.assign(Object.create(Object.getPrototypeOf(message) as object), message) as MessageShape<D>;
  reflect(schema, others, false).clear(field);
  const rest = toBinary(schema, others);
  const start = [...varint(field.number * 8 + lengthDelimited), ...varint(data.length)];
  return [Buffer.concat([headOf(rest.length + start.length + data.length), rest, Buffer.from(start)]), data];
}

/**
 * Messages out of what is received. One that is only bytes comes in as many messages as it takes to pass on what is there
 * without a copy: the sum of their bytes is the same. Throws ConnectError.
 */
export async function* decodeBulk<D extends DescMessage>(
  schema: D,
  chunks: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<MessageShape<D>> {
  const decoder = new BulkDecoder(schema, maxBytes);
  for await (const chunk of chunks) {
    decoder.push(chunk);
    for (let message = decoder.next(); message !== undefined; message = decoder.next()) yield message;
  }
  decoder.end();
}

/** The bytes of a message that come as they are received. */
interface Passing {
  readonly field: DescField;
  left: number;
}

class BulkDecoder<D extends DescMessage> {
  readonly #schema: D;
  readonly #fields: ReadonlyMap<number, DescField>;
  readonly #maxBytes: number;
  readonly #received = new Received();
  /** Of the message whose head was read. */
  #size: number | undefined;
  #passing: Passing | undefined;

  constructor(schema: D, maxBytes: number) {
    this.#schema = schema;
    this.#fields = bulkFields(schema);
    this.#maxBytes = maxBytes;
  }

  push(chunk: Uint8Array): void {
    this.#received.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length));
  }

  /** Undefined when more must be received first. */
  next(): MessageShape<D> | undefined {
    if (this.#passing === undefined) this.#begin();
    if (this.#passing !== undefined) return this.#pass(this.#passing);
    if (this.#size === undefined) return undefined;
    const whole = this.#received.take(this.#size);
    if (whole === undefined) return undefined;
    this.#size = undefined;
    try {
      return fromBinary(this.#schema, whole);
    } catch (error) {
      throw new ConnectError(`parse binary: ${error instanceof Error ? error.message : error}`, Code.Internal);
    }
  }

  end(): void {
    if (this.#received.length === 0 && this.#size === undefined && this.#passing === undefined) return;
    throw new ConnectError("protocol error: the stream ended within a message", Code.InvalidArgument);
  }

  /** Reads the head of a message, and finds out whether its bytes can be passed on. */
  #begin(): void {
    if (this.#size === undefined) {
      const head = this.#received.take(headBytes);
      if (head === undefined) return;
      if (((head[0] ?? 0) & compressedFlag) !== 0)
        throw new ConnectError("protocol error: a compressed message without grpc-encoding", Code.Internal);
      const size = head.readUInt32BE(1);
      if (size > this.#maxBytes) {
        const message = `message size ${size} is larger than configured readMaxBytes ${this.#maxBytes}`;
        throw new ConnectError(message, Code.ResourceExhausted);
      }
      this.#size = size;
    }
    const start = this.#received.peek(Math.min(this.#size, maxFieldHeadBytes));
    if (start === undefined) return;
    const field = (start[0] ?? 0) % 8 === lengthDelimited ? this.#fields.get((start[0] ?? 0) >> 3) : undefined;
    const length = readVarint(start, 1);
    // Bytes and nothing behind them.
    if (field === undefined || length === undefined || length.value === 0) return;
    if (length.end + length.value !== this.#size) return;
    this.#received.take(length.end);
    this.#size = undefined;
    this.#passing = { field, left: length.value };
  }

  #pass(passing: Passing): MessageShape<D> | undefined {
    const data = this.#received.takeUpTo(passing.left);
    if (data === undefined) return undefined;
    passing.left -= data.length;
    if (passing.left === 0) this.#passing = undefined;
    const message = create(this.#schema);
    reflect(this.#schema, message, false).set(passing.field, data);
    return message;
  }
}

/** What was received and not used yet. */
class Received {
  readonly #chunks: Buffer[] = [];
  length = 0;

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.length += chunk.length;
  }

  /** As much as there is in one piece, at most `limit`. */
  takeUpTo(limit: number): Buffer | undefined {
    const [first] = this.#chunks;
    if (first === undefined) return undefined;
    const taken = first.subarray(0, limit);
    if (taken.length === first.length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(limit);
    this.length -= taken.length;
    return taken;
  }

  take(length: number): Buffer | undefined {
    const taken = this.peek(length);
    if (taken === undefined) return undefined;
    let whole = 0;
    let left = length;
    for (; left > 0 && left >= (this.#chunks[whole]?.length ?? 0); whole++) left -= this.#chunks[whole]?.length ?? 0;
    this.#chunks.splice(0, whole);
    if (left > 0) this.#chunks[0] = (this.#chunks[0] ?? Buffer.alloc(0)).subarray(left);
    this.length -= length;
    return taken;
  }

  peek(length: number): Buffer | undefined {
    if (this.length < length) return undefined;
    const [first] = this.#chunks;
    if (first !== undefined && first.length >= length) return first.subarray(0, length);
    let count = 0;
    for (let sum = 0; sum < length; count++) sum += this.#chunks[count]?.length ?? 0;
    return Buffer.concat(this.#chunks.slice(0, count)).subarray(0, length);
  }
}

function headOf(size: number): Buffer {
  const head = Buffer.alloc(headBytes);
  head.writeUInt32BE(size, 1);
  return head;
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left];
    bytes.push((left % 128) + 128);
  }
}

/** Undefined when it does not end within the data. */
function readVarint(data: Uint8Array, start: number): { readonly value: number; readonly end: number } | undefined {
  let value = 0;
  for (let at = start; at < data.length; at++) {
    const byte = data[at] ?? 0;
    value += (byte % 128) * 128 ** (at - start);
    if (byte < 128) return { value, end: at + 1 };
  }
  return undefined;
}
