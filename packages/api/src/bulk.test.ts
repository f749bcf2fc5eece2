import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { bulkFields, decodeBulk, encodeBulk } from "./bulk.ts";
import {
  ApplyResponseSchema,
  CopyInRequestSchema,
  CopyOutResponseSchema,
  ExecRequestSchema,
  ExecResponseSchema,
  LogsRequestSchema,
  LogsResponseSchema,
} from "./index.ts";

const data = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i);

/** As the library writes it. */
const plain = <D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array =>
  encodeEnvelope(0, toBinary(schema, message));

async function decoded<D extends DescMessage>(
  schema: D,
  bytes: Uint8Array,
  size = bytes.length,
  maxBytes = 1_000_000,
): Promise<MessageShape<D>[]> {
  const chunks = (async function* () {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  })();
  const messages: MessageShape<D>[] = [];
  for await (const message of decodeBulk(schema, chunks, maxBytes)) messages.push(message);
  return messages;
}

test("which messages are bulk", () => {
  assert.deepEqual([...bulkFields(ExecResponseSchema).keys()], [1, 2]);
  for (const schema of [LogsResponseSchema, CopyOutResponseSchema]) assert.equal(bulkFields(schema).size, 1);
  for (const schema of [LogsRequestSchema, ApplyResponseSchema]) assert.equal(bulkFields(schema).size, 0);
});

test("what is sent is what the library sends, and the bytes are not copied", () => {
  for (const length of [0, 1, 127, 128, 70_000]) {
    const message = create(ExecRequestSchema, { input: { case: "stdin", value: data(length) } });
    const [head, bytes] = encodeBulk(ExecRequestSchema, message);
    assert.deepEqual(Buffer.concat([head, bytes]), Buffer.from(plain(ExecRequestSchema, message)));
    if (length > 0) assert.equal(bytes, message.input.value);
  }
  for (const message of [
    create(ExecRequestSchema),
    create(ExecRequestSchema, { input: { case: "start", value: { name: "x", command: ["a"] } } }),
    create(ExecRequestSchema, { input: { case: "signal", value: 9 } }),
  ])
    assert.deepEqual(
      Buffer.concat(encodeBulk(ExecRequestSchema, message)),
      Buffer.from(plain(ExecRequestSchema, message)),
    );
});

test("what the library sends is read, however it is cut", async () => {
  const start = create(CopyInRequestSchema, { input: { case: "start", value: { name: "x".repeat(300), path: "/" } } });
  const chunk = create(CopyInRequestSchema, { input: { case: "data", value: data(1_000) } });
  const empty = create(CopyInRequestSchema, { input: { case: "data", value: data(0) } });
  const sent = [start, create(CopyInRequestSchema), chunk, empty, chunk, start].map((message) =>
    plain(CopyInRequestSchema, message),
  );
  const bytes = Buffer.concat(sent);
  for (const size of [1, 2, 3, 5, 6, 7, 8, 100, 1_003, 1_004, bytes.length]) {
    const messages = await decoded(CopyInRequestSchema, bytes, size);
    assert.deepEqual(messages[0], start);
    assert.deepEqual(messages.at(-1), start);
    assert.equal(messages[1]?.input.case, undefined);
    const parts = messages.flatMap(({ input }) => (input.case === "data" ? [Buffer.from(input.value)] : []));
    assert.deepEqual(Buffer.concat(parts), Buffer.concat([data(1_000), data(1_000)]), `parts of ${size}`);
  }
});

test("a message that is not only its bytes is read whole", async () => {
  // The field twice: the last one counts. An unknown field behind it. A length that goes beyond the message.
  const twice = encodeEnvelope(0, Buffer.from([0x0a, 1, 5, 0x0a, 2, 6, 7]));
  const [message] = await decoded(LogsResponseSchema, twice, 1);
  assert.deepEqual([...(message?.lines ?? [])], [6, 7]);
  const unknown = await decoded(LogsResponseSchema, encodeEnvelope(0, Buffer.from([0x0a, 1, 5, 0x78, 1])));
  assert.deepEqual([...(unknown[0]?.lines ?? [])], [5]);
  await refused(decoded(LogsResponseSchema, encodeEnvelope(0, Buffer.from([0x0a, 9, 5]))), Code.Internal);
  await refused(decoded(LogsResponseSchema, encodeEnvelope(0, Buffer.alloc(12, 0xff))), Code.Internal);
});

test("hostile streams are refused", async () => {
  const whole = plain(CopyOutResponseSchema, create(CopyOutResponseSchema, { data: data(100) }));
  for (let length = 1; length < whole.length; length++)
    await refused(decoded(CopyOutResponseSchema, whole.subarray(0, length)), Code.InvalidArgument);
  await refused(decoded(CopyOutResponseSchema, whole, 3, 101), Code.ResourceExhausted);
  assert.equal((await decoded(CopyOutResponseSchema, whole, 1_000, 102)).length, 1);
  await refused(decoded(CopyOutResponseSchema, encodeEnvelope(1, data(5))), Code.Internal);
});

async function refused(decoding: Promise<unknown>, code: Code): Promise<void> {
  await assert.rejects(decoding, (error) => error instanceof ConnectError && error.code === code);
}
