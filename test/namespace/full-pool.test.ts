/** A pool that is full: told before it is, refused beyond its ratio, and nothing breaks when it comes to that. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { NamespaceHost } from "../support/namespace-host.ts";
import { TestCapsule } from "../support/test-capsule.ts";
import { type PoolJson, poolOf } from "../support/volumes.ts";

let capsule: TestCapsule;
let mounted: string | undefined;
before(async () => {
  const dir = mkdtempSync(join(tmpdir(), "capsule-pool-"));
  const stateDir = join(dir, "state");
  mkdirSync(stateDir);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=900m", "tmpfs", stateDir]);
  mounted = stateDir;
  const host = await NamespaceHost.start({ name: `t-pool-${process.pid.toString(36)}`, stateDir });
  capsule = await TestCapsule.on(host, dir, ["busybox"]);
});
after(async () => {
  await capsule?.host.stop();
  if (mounted !== undefined) execFileSync("umount", [mounted]);
  if (capsule !== undefined) rmSync(capsule.dir, { recursive: true, force: true });
});

const sh = (script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", "web", "--", "sh", "-c", script], "", 120_000);
const pool = (): Promise<PoolJson> => poolOf(capsule);
const manifest =
  "kind: Volume\nname: data\nsize: 1GiB\n---\nkind: Container\nname: web\ncontainer:\n  image: busybox:1\n  command: [sleep, 1d]\n  stopTimeout: 0s\n  mounts: [{volumeName: data, mountPath: /data}]\n";

test("volumes beyond the ratio are refused with the numbers, and the ratio can be changed", async () => {
  const size = Number((await pool()).sizeBytes);
  assert.ok(size > 300 * 1024 ** 2, `${size}`);
  const tooLarge = await capsule.try(["volume", "create", "large", "--size", "4GiB"]);
  assert.equal(tooLarge.code, 1);
  assert.match(tooLarge.stderr, /above 300 %/);
  assert.equal((await capsule.try(["pool", "set", "default", "--overcommit", "1"])).code, 1);
  assert.equal((await capsule.try(["pool", "set", "none", "--overcommit", "200"])).code, 3);
  await capsule.ctl(["pool", "set", "default", "--overcommit", "1000"]);
  await capsule.ctl(["volume", "create", "large", "--size", "4GiB"]);
  await capsule.ctl(["volume", "delete", "large"]);
  await capsule.ctl(["pool", "set", "default", "--overcommit", "300"]);
  assert.equal((await capsule.apply(manifest, "--wait=60s")).code, 0);
  assert.equal(Number((await pool()).promisedBytes), 1024 ** 3);
});

test("a full pool is told, fails writes, breaks nothing, and is whole again when there is room", {
  timeout: 240_000,
}, async () => {
  await sh("echo precious >/data/precious; sync");
  await capsule.ctl(["volume", "create", "ballast", "--size", "256MiB"]);
  await capsule.ctl([
    "volume",
    "mount",
    "ballast",
    "--",
    "sh",
    "-c",
    "dd if=/dev/urandom of=/mnt/x bs=1M count=150; sync",
  ]);
  // More than there is: it ends with an error, or with what fitted.
  await sh("dd if=/dev/urandom of=/data/fill bs=1M count=900 2>&1; sync; true").catch(() => "");
  await sleep(1_100);
  const { message } = await pool();
  assert.match(message, /is (9[0-9]|100) % full.*Delete snapshots or volumes/);
  assert.match((await capsule.try(["capsule", "info"])).stderr, /Warning: Pool "default"/);
  assert.match(await capsule.ctl(["capsule", "events"]), /pool\/default +Warning +PoolAbove95/);
  assert.match(await capsule.ctl(["capsule", "metrics"]), /^capsule_pool_level_percent\{pool="default"\} 95$/m);
  assert.equal((await capsule.workload("web")).status.phase, "PHASE_RUNNING");
  await capsule.ctl(["volume", "delete", "ballast"]);
  await capsule.ctl(["workload", "restart", "web", "--wait"]);
  assert.equal(await sh("rm -f /data/fill; sync; cat /data/precious"), "precious\n");
  assert.match(await capsule.ctl(["volume", "check", "data"]), /clean/);
  await sh("echo again >/data/again && sync");
  const deadline = Date.now() + 40_000;
  while ((await pool()).message !== "") {
    assert.ok(Date.now() < deadline, (await pool()).message);
    await sleep(500);
  }
});
