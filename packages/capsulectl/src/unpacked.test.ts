import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { disarm, discard, placeAs, placeInto } from "./unpacked.ts";

let base: string;
let sent: string;
let destination: string;
const modeOf = (path: string): number => statSync(path).mode & 0o7777;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "capsule-unpacked-"));
  [sent, destination] = [join(base, "sent"), join(base, "destination")];
  for (const path of [sent, destination, join(base, "outside")]) mkdirSync(path);
});
afterEach(() => discard(base));

describe("what a workload sent", () => {
  test("a link from an earlier copy does not lead the next one outside", () => {
    symlinkSync("../outside", join(destination, "data"));
    mkdirSync(join(sent, "data"));
    writeFileSync(join(sent, "data/file"), "x");
    writeFileSync(join(sent, "another"), "x");
    assert.throws(() => placeInto(sent, destination, new Map()), /data is a link/);
    assert.equal(statSync(join(base, "outside/file"), { throwIfNoEntry: false }), undefined);
    assert.equal(statSync(join(destination, "another"), { throwIfNoEntry: false }), undefined, "nothing was moved");
  });

  test("the same further down", () => {
    mkdirSync(join(destination, "a"));
    symlinkSync("../../outside", join(destination, "a/b"));
    mkdirSync(join(sent, "a/b"), { recursive: true });
    writeFileSync(join(sent, "a/b/file"), "x");
    assert.throws(() => placeInto(sent, destination, new Map()), /a\/b is a link/);
    assert.equal(statSync(join(base, "outside/file"), { throwIfNoEntry: false }), undefined);
  });

  test("a file replaces a link, and not what it leads to", () => {
    writeFileSync(join(base, "outside/file"), "theirs");
    symlinkSync("../outside/file", join(destination, "file"));
    writeFileSync(join(sent, "file"), "mine");
    placeInto(sent, destination, new Map());
    assert.equal(readFileSync(join(base, "outside/file"), "utf8"), "theirs");
    assert.equal(readFileSync(join(destination, "file"), "utf8"), "mine");
  });

  test("directories are merged, and a directory and a file do not replace each other", () => {
    mkdirSync(join(destination, "a/kept"), { recursive: true });
    mkdirSync(join(sent, "a"));
    writeFileSync(join(sent, "a/new"), "x");
    placeInto(sent, destination, disarm(sent));
    assert.ok(statSync(join(destination, "a/kept")).isDirectory() && statSync(join(destination, "a/new")).isFile());
    writeFileSync(join(sent, "b"), "x");
    mkdirSync(join(destination, "b"));
    assert.throws(() => placeInto(sent, destination, new Map()), /b is a directory/);
  });

  test("set-id bits go, other bits stay", () => {
    writeFileSync(join(sent, "tool"), "x");
    chmodSync(join(sent, "tool"), 0o6755);
    mkdirSync(join(sent, "shared"));
    chmodSync(join(sent, "shared"), 0o3775);
    disarm(sent);
    assert.equal(modeOf(join(sent, "tool")), 0o755);
    assert.equal(modeOf(join(sent, "shared")), 0o1775);
  });

  test("a directory without rights for its owner arrives whole", () => {
    mkdirSync(join(sent, "tree/closed"), { recursive: true });
    writeFileSync(join(sent, "tree/closed/file"), "x");
    chmodSync(join(sent, "tree/closed"), 0o055);
    chmodSync(join(sent, "tree"), 0o555);
    const target = join(destination, "new");
    placeAs(sent, target, disarm(sent));
    assert.equal(modeOf(target), 0o555);
    chmodSync(target, 0o755);
    assert.equal(modeOf(join(target, "closed")), 0o055);
  });
});
