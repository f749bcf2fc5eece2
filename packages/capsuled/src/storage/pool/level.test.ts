import assert from "node:assert/strict";
import { test } from "node:test";
import { levelOf } from "./level.ts";

const used = (percent: number, metadataRatio = 0) => ({ sizeBytes: 1000, usedBytes: percent * 10, metadataRatio });

test("each threshold is reached at its percent, by data or by metadata", () => {
  assert.deepEqual(
    [0, 79.9, 80, 89.9, 90, 95, 100].map((percent) => levelOf(used(percent), 0)),
    [0, 0, 80, 80, 90, 95, 95],
  );
  assert.equal(levelOf(used(10, 0.96), 0), 95);
  assert.equal(levelOf({ sizeBytes: 0, usedBytes: 0, metadataRatio: 0 }, 0), 0);
});

test("a step is left with some slack", () => {
  assert.equal(levelOf(used(89), 90), 90);
  assert.equal(levelOf(used(87.9), 90), 80);
  assert.equal(levelOf(used(78.5), 80), 80);
  assert.equal(levelOf(used(77), 80), 0);
  assert.equal(levelOf(used(50), 95), 0);
});
