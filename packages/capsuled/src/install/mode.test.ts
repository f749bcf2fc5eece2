import assert from "node:assert/strict";
import { test } from "node:test";
import { type BootFacts, modeOf, wantedMode } from "./mode.ts";

const aStick: BootFacts = { wanted: undefined, isPortable: true, isBegun: false, hasTarget: true };

test("a fresh stick beside a disk installs; anything else runs from where it is", () => {
  assert.equal(modeOf(aStick), "installer");
  assert.equal(modeOf({ ...aStick, isPortable: false }), "capsule");
  assert.equal(modeOf({ ...aStick, isBegun: true }), "capsule");
  assert.equal(modeOf({ ...aStick, hasTarget: false }), "capsule");
});

test("what the boot loader was told goes first, both ways", () => {
  assert.equal(modeOf({ ...aStick, wanted: "capsule" }), "capsule");
  assert.equal(modeOf({ wanted: "installer", isPortable: false, isBegun: true, hasTarget: false }), "installer");
});

test("only a whole word of the command line counts", () => {
  assert.equal(wantedMode("quiet capsule.mode=installer console=ttyS0\n"), "installer");
  assert.equal(wantedMode("capsule.mode=capsule"), "capsule");
  for (const line of ["", "capsule.mode=", "capsule.mode=installers", "xcapsule.mode=capsule", "capsule.mode=none"])
    assert.equal(wantedMode(line), undefined, line);
});
