import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { TimestampSchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { LogStream } from "@capsule/api";
import { criLines, type WantedLines } from "./cri.ts";
import { type ReadOptions, readLog } from "./read.ts";

type LogOptions = ReadOptions & WantedLines;

const all: LogOptions = { follow: false, tail: undefined, streams: [], since: undefined, until: undefined };
const line = (second: number, text: string, stream = "stdout", tag = "F"): string =>
  `2026-01-01T00:00:${String(second).padStart(2, "0")}.000000001Z ${stream} ${tag} ${text}\n`;

function readLogs(dir: string, options: LogOptions, signal: AbortSignal) {
  return readLog({ dir, name: "current.log" }, criLines(options), options, signal);
}

/** What the workload wrote, a line each. */
function textsOf(block: Uint8Array): string[] {
  const text = Buffer.from(block).toString();
  assert.ok(text.endsWith("\n"), "whole lines");
  return text
    .slice(0, -1)
    .split("\n")
    .map((one) => one.slice("2026-01-01T00:00:01.000000001Z stdout F ".length));
}

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-logs-test-"));
  writeFileSync(join(dir, "current.log.2"), line(1, "one") + line(2, "two", "stderr"));
  writeFileSync(join(dir, "current.log.1"), line(3, "three") + line(4, "fo", "stdout", "P") + line(4, "ur"));
  writeFileSync(join(dir, "current.log"), line(5, "five"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

async function texts(options: Partial<LogOptions>, from = dir): Promise<string[]> {
  const found: string[] = [];
  for await (const lines of readLogs(from, { ...all, ...options }, AbortSignal.timeout(5_000))) {
    found.push(...textsOf(lines));
  }
  return found;
}

test("all lines, oldest file first", async () => {
  assert.deepEqual(await texts({}), ["one", "two", "three", "fo", "ur", "five"]);
});

test("the last lines, across files; a long line in parts is one", async () => {
  assert.deepEqual(await texts({ tail: 0 }), []);
  assert.deepEqual(await texts({ tail: 1 }), ["five"]);
  assert.deepEqual(await texts({ tail: 2 }), ["fo", "ur", "five"]);
  assert.deepEqual(await texts({ tail: 4 }), ["two", "three", "fo", "ur", "five"]);
  assert.deepEqual(await texts({ tail: 99 }), ["one", "two", "three", "fo", "ur", "five"]);
  assert.deepEqual(await texts({ tail: 1, streams: [LogStream.STDERR] }), ["two"]);
});

test("since and until", async () => {
  const at = (second: string) => timestampFromDate(new Date(`2026-01-01T00:00:0${second}Z`));
  assert.deepEqual(await texts({ since: at("2.5"), until: at("4.5") }), ["three", "fo", "ur"]);
  // To the nanosecond: the lines are of the first one of their second.
  assert.deepEqual(await texts({ since: at("4"), until: { ...at("5"), nanos: 1 } }), ["fo", "ur", "five"]);
  assert.deepEqual(await texts({ since: { ...at("4"), nanos: 2 } }), ["five"]);
  assert.deepEqual(await texts({ since: at("1"), streams: [LogStream.STDOUT], until: at("4") }), ["one", "three"]);
});

test("times that no clock has", async () => {
  const far = create(TimestampSchema, { seconds: 2n ** 62n, nanos: -5 });
  const past = create(TimestampSchema, { seconds: -(2n ** 62n), nanos: 2 ** 31 - 1 });
  assert.deepEqual(await texts({ since: far }), []);
  assert.deepEqual(await texts({ since: past, until: far, tail: 1 }), ["five"]);
});

test("a line that a power cut has torn is left out by filters and counted by no tail", async () => {
  const own = mkdtempSync(join(tmpdir(), "capsule-logs-test-"));
  writeFileSync(join(own, "current.log"), `${line(1, "a")}2026-01-01T0\n\0\0\n${line(2, "b")}`);
  assert.deepEqual(await texts({ tail: 2 }, own), ["a", "", "", "b"]);
  assert.deepEqual(await texts({ streams: [LogStream.STDOUT] }, own), ["a", "b"]);
  rmSync(own, { recursive: true });
});

test("many lines, more than a chunk holds", async () => {
  const many = mkdtempSync(join(tmpdir(), "capsule-logs-test-"));
  writeFileSync(join(many, "current.log"), Array.from({ length: 20_000 }, (_, i) => line(1, `line ${i}`)).join(""));
  assert.equal((await texts({}, many)).length, 20_000);
  assert.deepEqual(await texts({ tail: 10_000 }, many), (await texts({}, many)).slice(10_000));
  rmSync(many, { recursive: true });
});

test("follows what is written, through two rotations at once, and ends with the directory", async () => {
  const own = mkdtempSync(join(tmpdir(), "capsule-logs-test-"));
  writeFileSync(join(own, "current.log"), line(1, "a"));
  const found: string[] = [];
  const done = (async () => {
    for await (const lines of readLogs(own, { ...all, follow: true }, AbortSignal.timeout(10_000))) {
      found.push(...textsOf(lines));
    }
  })();
  const until = async (count: number): Promise<void> => {
    for (let i = 0; i < 400 && found.length < count; i++) await sleep(5);
  };
  await until(1);
  appendFileSync(join(own, "current.log"), line(2, "b"));
  await until(2);
  appendFileSync(join(own, "current.log"), line(3, "c"));
  renameSync(join(own, "current.log"), join(own, "current.log.2"));
  writeFileSync(join(own, "current.log.1"), line(4, "d"));
  writeFileSync(join(own, "current.log"), line(5, "e").slice(0, 10));
  await until(4);
  appendFileSync(join(own, "current.log"), line(5, "e").slice(10));
  await until(5);
  assert.deepEqual(found, ["a", "b", "c", "d", "e"]);
  rmSync(own, { recursive: true });
  await done;
});

test("a tail is of the moment when it was asked for, however fast the log grows", async () => {
  const own = mkdtempSync(join(tmpdir(), "capsule-logs-test-"));
  try {
    const path = join(own, "current.log");
    writeFileSync(path, line(1, "one") + line(2, "two"));
    const options = { ...all, tail: 1 };
    const split = criLines(options);
    const growing = {
      take: (block: Buffer) => split.take(block),
      starts: (block: Buffer) => {
        appendFileSync(path, line(3, "late"));
        return split.starts(block);
      },
    };
    const texts: string[] = [];
    for await (const block of readLog({ dir: own, name: "current.log" }, growing, options, AbortSignal.timeout(5_000)))
      texts.push(...textsOf(Buffer.from(block)));
    assert.deepEqual(texts, ["two"]);
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
});
