import assert from "node:assert/strict";
import { test } from "node:test";
import { isWorkloadLink } from "../../network/names.ts";
import { addressesNow, carriersOf, relevant6 } from "./change.ts";

const line = (name: string, flags = "80") => `fe800000000000000000000000000001 02 40 20 ${flags} ${name.padStart(8)}\n`;

test("only the capsule's own links count, in whatever order, and whether an address can be used yet", () => {
  const before = relevant6(line("eth0") + line("c-wabc") + line("eth1"), isWorkloadLink);
  assert.equal(relevant6(line("eth1") + line("capsule0") + line("eth0"), isWorkloadLink), before);
  assert.notEqual(relevant6(line("eth0"), isWorkloadLink), before);
  assert.notEqual(relevant6(line("eth0", "40") + line("eth1"), isWorkloadLink), before);
});

test("this machine's own tables can be read", () => {
  assert.match(carriersOf(["lo", "none"]), /^lo 1\nnone $/);
  assert.match(
    addressesNow(() => false),
    /127\.0\.0\.1/,
  );
});
