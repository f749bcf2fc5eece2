import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { constants, zstdCompressSync } from "node:zlib";
import { chunkBytes, documentFrame, type Frame, framesOf, ImageFormatError } from "./volume-image.ts";

const checked = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };
const header = { format: "capsule-volume", version: 1, volume: "a", sizeBytes: 3 * chunkBytes, chunkBytes } as const;
const trailer = { format: "capsule-volume-end", chunks: 3, digest: "00" } as const;
const noise = Buffer.from(Uint8Array.from({ length: 90_000 }, (_, i) => (Math.imul(i, 2_654_435_761) >>> 13) & 255));
const frames = [
  documentFrame(header),
  zstdCompressSync(Buffer.alloc(chunkBytes), checked),
  zstdCompressSync(noise, checked),
  zstdCompressSync(Buffer.from("small")),
  documentFrame(trailer),
];
const file = Buffer.concat(frames);

async function read(data: Uint8Array, step: number): Promise<Frame[]> {
  const source = async function* (): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < data.length; i += step) yield data.subarray(i, i + step);
  };
  const found: Frame[] = [];
  for await (const frame of framesOf(source())) found.push(frame);
  return found;
}

describe("the frames of an exported volume", () => {
  test("are told apart, however they come", async () => {
    for (const step of [1, 7, 1_000, file.length]) {
      const found = await read(file, step);
      assert.deepEqual(
        found.map((frame) => (frame.kind === "data" ? Buffer.from(frame.bytes).toString("base64") : frame.document)),
        [header, ...frames.slice(1, 4).map((frame) => Buffer.from(frame).toString("base64")), trailer],
      );
    }
  });

  test("that end in the middle are refused wherever that is", async () => {
    const ends = new Set<number>([0]);
    for (const frame of frames) ends.add(Math.max(...ends) + frame.length);
    for (let length = 0; length <= file.length; length += length < 300 ? 1 : 997) {
      if (ends.has(length)) await read(file.subarray(0, length), 4_096);
      else await assert.rejects(read(file.subarray(0, length), 4_096), ImageFormatError);
    }
  });

  test("of another format are refused, and nothing large is held", async () => {
    const foreign = [
      Buffer.from("\u007fELF and more"),
      Buffer.concat([documentFrame(header), Buffer.from("garbage!")]),
      // A skippable frame of 4 GiB, and documents that are none.
      Buffer.from([0x5c, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff]),
      Buffer.from([0x5c, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 0x7b, 0x7d]),
      documentFrame({ ...header, chunkBytes: 1 }),
      documentFrame({ ...header, sizeBytes: 2 ** 60 }),
    ];
    for (const [i, data] of foreign.entries()) await assert.rejects(read(data, 4_096), ImageFormatError, String(i));
  });

  test("of others are passed over when they are skippable", async () => {
    const other = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    assert.equal((await read(Buffer.concat([other, file, other]), 4_096)).length, 5);
  });
});
