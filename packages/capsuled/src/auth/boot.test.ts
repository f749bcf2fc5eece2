import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { bootTimeS, claimSecondsLeft, claimWindowS, readBoot } from "./boot.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-boot-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("the first start of a boot is remembered", () => {
  const { isFirst, ...first } = readBoot(dir);
  assert.equal(isFirst, true);
  assert.deepEqual(readBoot(dir), { ...first, isFirst: false });
});

test("the window closes by the time since boot; damage closes it too", () => {
  assert.equal(claimSecondsLeft({ uptimeS: 10 }, 10), claimWindowS);
  assert.equal(claimSecondsLeft({ uptimeS: 10 }, 10 + claimWindowS), 0);
  writeFileSync(join(dir, "boot.json"), "{");
  const damaged = readBoot(dir);
  assert.equal(damaged.isFirst, false);
  assert.equal(claimSecondsLeft(damaged), 0);
});

test("the time of the boot follows a clock that is set right afterwards", () => {
  const boot = { uptimeS: 10 };
  const [right, ahead] = [new Date("2026-01-01T00:00:00Z"), new Date("2030-01-01T00:00:00Z")];
  assert.equal(bootTimeS(boot, ahead, 70), ahead.getTime() / 1000 - 60);
  assert.equal(bootTimeS(boot, right, 70), right.getTime() / 1000 - 60);
});
