/** A disk that is full: it is said, nothing breaks, and everything recovers by itself when there is room again. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import { NamespaceHost } from "../support/namespace-host.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let mounted: string | undefined;
before(async () => {
  const dir = mkdtempSync(join(tmpdir(), "capsule-full-"));
  const stateDir = join(dir, "state");
  mkdirSync(stateDir);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=600m", "tmpfs", stateDir]);
  mounted = stateDir;
  const host = await NamespaceHost.start({ name: `t-full-${process.pid.toString(36)}`, stateDir });
  capsule = await TestCapsule.on(host, dir, ["busybox"]);
});
after(async () => {
  await capsule?.host.stop();
  if (mounted !== undefined) execFileSync("umount", [mounted]);
  if (capsule !== undefined) rmSync(capsule.dir, { recursive: true, force: true });
});

/** Leaves no byte on the capsule's disk. */
function fill(): string {
  const path = join(capsule.local.perm, "filler");
  const file = openSync(path, "w");
  const block = Buffer.alloc(1024 * 1024);
  for (let size = block.length; size >= 4_096; ) {
    try {
      writeSync(file, block, 0, size);
    } catch {
      size /= 4;
    }
  }
  closeSync(file);
  return path;
}

const manifest = (name: string): string =>
  `kind: Container\nname: ${name}\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s}\n`;

test("an image that does not fit is refused, and its room is free again", async () => {
  const large = join(capsule.dir, "large.tar");
  const zeros = Buffer.alloc(1024 * 1024);
  const file = openSync(large, "w");
  for (let i = 0; i < 700; i++) writeSync(file, zeros);
  closeSync(file);
  const pushed = await capsule.try(["image", "push", large]);
  assert.equal(pushed.code, 1);
});

test("a full disk is said, what runs goes on, and what waited starts when there is room", {
  timeout: 120_000,
}, async () => {
  assert.equal((await capsule.apply(manifest("before"), "--wait=30s")).code, 0);
  const { pid } = (await capsule.workload("before")).status;
  const filler = fill();
  const applied = await capsule.apply(manifest("later"));
  if (applied.code === 0) {
    // SQLite had a page left: then the start says it.
    const { status } = await capsule.until(
      "later",
      ({ status: { phase } }) => phase === "PHASE_FAILED",
      "failed",
      30_000,
    );
    assert.match(status.message, /no space left|disk/i);
  } else assert.match(applied.stderr, /disk/);
  assert.match((await capsule.try(["capsule", "info"])).stderr, /nearly full/);
  // Whoever is to help can be told.
  const bundle = await capsule.try(["capsule", "support-bundle", join(capsule.dir, "full.tar.gz")]);
  assert.equal(bundle.code, 0, bundle.stderr);
  assert.doesNotMatch(bundle.stderr, /Not in it/);
  // And whoever helps can look, and make room.
  const looked = await capsule.try(["capsule", "debug", "--", "df", "--output=avail", "/perm"]);
  assert.equal(looked.code, 0, looked.stderr);
  // What was kept for this, and no more.
  assert.ok(Number(/Avail\n +([0-9]+)\n/.exec(looked.stdout)?.[1]) <= 8_192, looked.stdout);
  assert.equal((await capsule.workload("before")).status.pid, pid, "what runs is not touched");
  await capsule.ctl(["capsule", "debug", "--", "rm", `/perm/${basename(filler)}`]);
  assert.equal((await capsule.apply(manifest("later"), "--wait=70s")).code, 0);
  assert.equal((await capsule.workload("before")).status.pid, pid);
});
