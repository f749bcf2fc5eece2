import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { writeAll } from "./write-all.ts";

/** Takes what is written after a moment; notes the size of each write. */
function slowPipe(): { pipe: Writable; sizes: number[] } {
  const sizes: number[] = [];
  const take = (length: number, done: () => void): void => {
    sizes.push(length);
    setTimeout(done, 1);
  };
  const pipe = new Writable({
    highWaterMark: 16 * 1024,
    write: (chunk: Buffer, _, done) => take(chunk.length, done),
    writev: (chunks, done) =>
      take(
        chunks.reduce((sum, { chunk }) => sum + (chunk as Buffer).length, 0),
        done,
      ),
  });
  return { pipe, sizes };
}

async function* pieces(count: number): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < count; i++) yield new Uint8Array(10_000);
}

test("all arrives, in few writes, and no more is held than one of them", async () => {
  const { pipe, sizes } = slowPipe();
  await writeAll(pieces(100), pipe);
  assert.equal(
    sizes.reduce((sum, size) => sum + size, 0),
    1_000_000,
  );
  assert.ok(sizes.length < 12 && Math.max(...sizes) < 200_000, sizes.join());
  assert.ok(pipe.writableFinished);
  const { pipe: unused } = slowPipe();
  await writeAll(pieces(0), unused);
});

test("what fails is told", async () => {
  const failing = (async function* () {
    yield new Uint8Array(1);
    throw new Error("the source");
  })();
  await assert.rejects(writeAll(failing, slowPipe().pipe), /the source/);
  const closed = new Writable({ write: (_, __, done) => done(new Error("EPIPE")) });
  await assert.rejects(writeAll(pieces(1_000), closed), /EPIPE/);
});

test("a pipe that closes and a caller that aborts end it, though the source waits", async () => {
  const waiting = (async function* () {
    yield new Uint8Array(1);
    await sleep(60_000, undefined, { ref: false });
  })();
  const { pipe } = slowPipe();
  setTimeout(() => pipe.destroy(), 20);
  await assert.rejects(writeAll(waiting, pipe), /[Pp]remature close/);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 20);
  const second = (async function* () {
    await sleep(60_000, undefined, { ref: false });
    yield new Uint8Array(1);
  })();
  await assert.rejects(writeAll(second, slowPipe().pipe, controller.signal), /abort/);
});
