import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { KeyedQueue } from "./queue.ts";

test("a key is handled by one worker at a time, and once more when it was added meanwhile", async () => {
  let running = 0;
  const handled: string[] = [];
  const queue = new KeyedQueue({
    workers: 4,
    handle: async (key) => {
      assert.equal(++running, 1, "serial per key");
      await sleep(5);
      running--;
      handled.push(key);
    },
  });
  queue.add("a");
  queue.add("a");
  await sleep(1);
  queue.add("a");
  queue.add("a");
  await sleep(30);
  assert.deepEqual(handled, ["a", "a"]);
});

test("no more keys at once than there are workers", async () => {
  let running = 0;
  let most = 0;
  const queue = new KeyedQueue({
    workers: 2,
    handle: async () => {
      most = Math.max(most, ++running);
      await sleep(2);
      running--;
    },
  });
  for (let i = 0; i < 10; i++) queue.add(`k${i}`);
  await sleep(40);
  await queue.stop();
  assert.equal(most, 2);
});

test("keys that hang hold up no other", async () => {
  const done: string[] = [];
  const hanging = new AbortController();
  const queue = new KeyedQueue({
    workers: 1,
    patienceMs: 5,
    handle: async (key) => {
      if (key.startsWith("hang")) await sleep(60_000, undefined, { signal: hanging.signal }).catch(() => undefined);
      done.push(key);
    },
  });
  queue.add("hang1");
  queue.add("hang2");
  queue.add("quick");
  await sleep(60);
  assert.deepEqual(done, ["quick"]);
  hanging.abort();
  await queue.stop();
  assert.deepEqual(done.sort(), ["hang1", "hang2", "quick"]);
});

test("the earlier of two times wins, and an add goes before both", async () => {
  const handled: number[] = [];
  const started = Date.now();
  const queue = new KeyedQueue({ workers: 1, handle: async () => void handled.push(Date.now() - started) });
  queue.addAt("a", new Date(started + 20));
  queue.addAt("a", new Date(started + 60_000));
  await sleep(50);
  assert.equal(handled.length, 1);
  queue.addAt("a", new Date(Date.now() + 60_000));
  queue.add("a");
  await sleep(5);
  assert.equal(handled.length, 2);
  await queue.stop();
});
