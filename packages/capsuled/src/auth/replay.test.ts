import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { ReplayCache } from "./replay.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-replay-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const lifetimeS = 70;
const at = (seconds: number): Date => new Date((7_000_000 + seconds) * 1000);
const started = (now: Date, limit = 1_000): ReplayCache => new ReplayCache({ dir, lifetimeS, limit }, now);

test("each token serves once, also after a restart and into the next generation", () => {
  const first = started(at(0));
  assert.equal(first.use("a", at(0)), "new");
  assert.equal(first.use("a", at(1)), "used");
  assert.equal(started(at(2)).use("a", at(2)), "used");
  assert.equal(started(at(lifetimeS)).use("a", at(lifetimeS)), "used");
  assert.equal(first.use("a", at(lifetimeS)), "used");
});

test("what can be valid no more is forgotten, in memory and on disk", () => {
  const cache = started(at(0));
  for (let i = 0; i < 20; i++) cache.use(`t${i}`, at(i * lifetimeS));
  assert.equal(readdirSync(dir).length, 2);
  assert.equal(cache.use("t0", at(20 * lifetimeS)), "new");
});

test("full is refused, and recovers by itself", () => {
  const cache = started(at(0), 3);
  for (const id of ["a", "b", "c"]) assert.equal(cache.use(id, at(0)), "new");
  assert.equal(cache.use("d", at(1)), "full");
  assert.equal(cache.use("a", at(1)), "used", "what was used stays used");
  assert.equal(cache.use("d", at(2 * lifetimeS)), "new");
});

test("a clock set back, with or without a restart, lets no token serve again", () => {
  const first = started(at(lifetimeS));
  first.use("a", at(lifetimeS));
  assert.equal(first.use("a", at(lifetimeS - 5)), "used");
  assert.equal(started(at(lifetimeS - 5)).use("a", at(lifetimeS - 5)), "used");
  const far = started(at(-100 * lifetimeS));
  assert.equal(far.use("b", at(-100 * lifetimeS)), "new");
  assert.equal(far.use("a", at(lifetimeS)), "used", "the clock has come to the time of the first use again");
  assert.equal(started(at(lifetimeS + 1)).use("a", at(lifetimeS + 1)), "used");
});
