import assert from "node:assert/strict";
import { test } from "node:test";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { limitsOf } from "./update.ts";

const minutes = (count: number) => durationFromMs(count * 60_000);

test("limits of a trial: what can be kept, and what is told else", () => {
  assert.deepEqual(limitsOf(undefined, undefined), { autoConfirmMs: undefined, confirmWithinMs: 900_000 });
  assert.deepEqual(limitsOf(minutes(2), minutes(25)), { autoConfirmMs: 120_000, confirmWithinMs: 1_500_000 });
  assert.deepEqual(limitsOf(minutes(0), minutes(1)), { autoConfirmMs: 0, confirmWithinMs: 60_000 });
  for (const within of [0, 0.9, 26, -5]) assert.throws(() => limitsOf(undefined, minutes(within)), /1 to 25 minutes/);
  for (const auto of [-1, 14.6, 15, 100]) assert.throws(() => limitsOf(minutes(auto), undefined), /autoConfirm/);
});
