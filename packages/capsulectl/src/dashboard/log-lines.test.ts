import assert from "node:assert/strict";
import { test } from "node:test";
import { LogLines } from "./log-lines.ts";

const at = "2026-01-31T12:00:00.123456789Z";

test("lines of both streams in their order, however the blocks are cut", () => {
  const block = Buffer.from(
    `${at} stdout F one\n${at} stderr F zwölf 日本\n${at} stdout F \nxx torn\n${at} stdout F end\n`,
  );
  for (let size = 1; size <= block.length; size++) {
    const lines = new LogLines();
    const out: string[] = [];
    for (let i = 0; i < block.length; i += size) out.push(...lines.take(block.subarray(i, i + size)));
    assert.deepEqual(out, ["one", "zwölf 日本", "", "end"]);
  }
});

test("a line in parts is one line, and memory is bounded whatever comes", () => {
  const lines = new LogLines();
  assert.deepEqual(lines.take(Buffer.from(`${at} stdout P one \n${at} stderr F other\n${at} stdout F two\n`)), [
    "other",
    "one two",
  ]);
  for (let i = 0; i < 100; i++) lines.take(Buffer.from(`${at} stdout P ${"x".repeat(16_000)}\n`));
  assert.equal(lines.take(Buffer.from(`${at} stdout F end\n`))[0]?.length, 1_000);
  for (let i = 0; i < 100; i++) lines.take(Buffer.alloc(16_384, "x"));
  assert.deepEqual(lines.take(Buffer.from(`\n${at} stdout F goes on\n`)), ["goes on"]);
});
