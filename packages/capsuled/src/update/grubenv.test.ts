import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { editGrubenv, emptyGrubenv, readGrubenv } from "./grubenv.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-grubenv-"));
after(() => rmSync(dir, { recursive: true }));
const file = join(dir, "grubenv");
const grub = (...args: string[]): string => execFileSync("grub-editenv", [file, ...args], { encoding: "utf8" });

test("the same bytes as grub-editenv's, step by step", () => {
  grub("create");
  let ours: Buffer = readFileSync(file);
  const steps: readonly Record<string, string | undefined>[] = [
    { capsule_slot: "a" },
    { capsule_try: "b", capsule_tries: "1" },
    { capsule_tries: "0" },
    { capsule_slot: "b" },
    { capsule_try: undefined },
    { capsule_try: "a" },
    { nothing_there: undefined },
    { capsule_tries: undefined, capsule_try: undefined },
  ];
  for (const step of steps) {
    for (const [name, value] of Object.entries(step))
      if (value === undefined) grub("unset", name);
      else grub("set", `${name}=${value}`);
    ours = editGrubenv(ours, step);
    assert.deepEqual(ours.toString("latin1"), readFileSync(file, "latin1"), JSON.stringify(step));
  }
});

test("grub-editenv reads what we made from nothing, and we what it tells", () => {
  const block = editGrubenv(emptyGrubenv(), { capsule_slot: "b", capsule_tries: "1" });
  writeFileSync(file, block);
  assert.equal(grub("list"), "capsule_slot=b\ncapsule_tries=1\n");
  assert.deepEqual(readGrubenv(block), { capsule_slot: "b", capsule_tries: "1" });
});

test("a change is one of the first sector alone", () => {
  const before = editGrubenv(emptyGrubenv(), { capsule_slot: "a" });
  const after = editGrubenv(before, { capsule_try: "b", capsule_tries: "1" });
  assert.notDeepEqual(before.subarray(0, 512), after.subarray(0, 512));
  assert.deepEqual(before.subarray(512), after.subarray(512));
  const full = editGrubenv(emptyGrubenv(), Object.fromEntries([..."abcdef"].map((name) => [name, "x".repeat(64)])));
  assert.throws(() => editGrubenv(full, { one: "x".repeat(64), more: "x".repeat(64) }), /more than one sector/);
});

test("what is no block is refused, and values that would need escapes", () => {
  for (const bad of [Buffer.alloc(1024), Buffer.alloc(0), emptyGrubenv().subarray(0, 512)])
    assert.throws(() => readGrubenv(bad), /cannot be used/);
  assert.throws(() => editGrubenv(emptyGrubenv(), { capsule_slot: "a\nb" }), TypeError);
});
