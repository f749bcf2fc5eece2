import assert from "node:assert/strict";
import { test } from "node:test";
import { nextDue, retired } from "./schedule.ts";

const at = (text: string): Date => new Date(`${text}Z`);
const next = (schedule: string, last: string): string | undefined =>
  nextDue(schedule, at(last))?.toISOString().slice(0, 16);

test("the next snapshot is due at the next full hour, day or week", () => {
  assert.equal(next("hourly", "2026-11-26T01:30:00"), "2026-11-26T02:00");
  assert.equal(next("hourly", "2026-11-26T02:00:00"), "2026-11-26T03:00");
  assert.equal(next("daily", "2026-11-26T01:30:00"), "2026-11-27T00:00");
  // 2026-11-30 is a Monday.
  assert.equal(next("weekly", "2026-11-26T01:30:00"), "2026-11-30T00:00");
  assert.equal(next("weekly", "2026-11-30T00:00:00"), "2026-12-07T00:00");
  assert.equal(next("", "2026-11-26T01:30:00"), undefined);
  assert.equal(nextDue("constructor", new Date()), undefined);
});

test("what was missed is due once: after it was taken, the next one is ahead", () => {
  const now = at("2026-11-26T01:30:00");
  assert.ok((nextDue("hourly", at("2026-11-01T00:00:00")) ?? now) < now);
  assert.ok((nextDue("hourly", now) ?? now) > now);
});

test("the newest are kept", () => {
  const snapshots = [3, 1, 5, 2, 4].map((day) => ({ day, createdAt: at(`2026-11-0${day}T00:00:00`) }));
  assert.deepEqual(
    retired(snapshots, 2).map(({ day }) => day),
    [3, 2, 1],
  );
  assert.deepEqual(retired(snapshots, 9), []);
});
