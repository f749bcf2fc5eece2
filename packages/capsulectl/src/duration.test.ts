import assert from "node:assert/strict";
import { test } from "node:test";
import { durationOption, parseDuration, waitOption } from "./duration.ts";
import { CliError, exitCode } from "./errors.ts";

test("durations in every form", () => {
  const forms: [string, number | undefined][] = [
    ["10", 10_000],
    ["250ms", 250],
    ["1m30s", 90_000],
    ["1.5h", 5_400_000],
    ["2d", 172_800_000],
    ["", undefined],
    ["s", undefined],
    ["-1s", undefined],
    ["1 s", undefined],
    ["1w", undefined],
    ["99999999999999999999d", undefined],
    ["99999999999999999999999999", undefined],
  ];
  for (const [text, ms] of forms) assert.equal(parseDuration(text), ms, text);
});

test("faults of options are faults of usage, found before anything is sent", () => {
  const isUsage = (error: unknown): boolean => error instanceof CliError && error.exitCode === exitCode.usage;
  assert.throws(() => durationOption("soon"), isUsage);
  assert.throws(() => waitOption("100d"), isUsage);
  assert.throws(() => waitOption("x"), isUsage);
  assert.equal(waitOption("24d"), 24 * 86_400_000);
  assert.equal(waitOption(true), 300_000);
  assert.equal(waitOption(undefined), undefined);
});
