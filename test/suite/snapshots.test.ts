/** Snapshots as a user of capsulectl sees them. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isMachine } from "../support/kind.ts";
import { sleeperOf } from "../support/machines.ts";
import { emulated, patience, TestCapsule } from "../support/test-capsule.ts";
import { disksOf, isUnfinished } from "../support/volumes.ts";

interface SnapshotJson {
  readonly name: string;
  readonly origin: string;
  readonly sizeBytes: string;
  readonly exclusiveBytes?: string;
}

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("snap", ["busybox"]);
  await applied(`kind: Volume\nname: data\nsize: 64MiB\n---\n${user("web", "data")}`);
});
after(async () => await capsule?.stop());

const user = (name: string, volume: string): string =>
  sleeperOf(name, `  mounts: [{volumeName: ${volume}, mountPath: /data}]\n`);
const sh = (name: string, script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", name, "--", "sh", "-c", script], "", 60_000);
const snapshots = async (name: string): Promise<SnapshotJson[]> =>
  (JSON.parse(await capsule.ctl(["volume", "snapshots", name, "-o", "json"])) as { snapshots: SnapshotJson[] })
    .snapshots;
const names = async (name: string): Promise<string[]> => (await snapshots(name)).map((one) => one.name);

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=60s");
  assert.equal(code, 0, stderr);
}

describe("a snapshot", () => {
  test("keeps what a mounted volume held, has a name of its own, and is listed with what it has alone", async () => {
    await sh("web", "echo one >/data/file");
    await capsule.ctl(["volume", "snapshot", "data", "first"]);
    await sh("web", "echo two >/data/file; dd if=/dev/zero of=/data/big bs=1M count=8 2>/dev/null; sync");
    assert.equal((await capsule.try(["volume", "snapshot", "data", "first"])).code, 5);
    assert.equal((await capsule.try(["volume", "snapshot", "data", "No Name"])).code, 1);
    assert.equal((await capsule.try(["volume", "snapshot", "nothing"])).code, 3);
    await capsule.ctl(["volume", "snapshot", "data"]);
    const [first, second] = await snapshots("data");
    assert.equal(first?.name, "first");
    assert.match(second?.name ?? "", /^at-2[0-9]{7}-[0-9]{6}$/);
    assert.equal(first?.origin, "SNAPSHOT_ORIGIN_MANUAL");
    assert.ok(Number(first?.exclusiveBytes) > 0);
  });

  test("that nobody names has a name of its own, and a restore's too: several in a second", async () => {
    await capsule.ctl(["volume", "create", "quick", "--size", "64MiB"]);
    await Promise.all([1, 2, 3].map(() => capsule.ctl(["volume", "snapshot", "quick"])));
    const made = await names("quick");
    assert.equal(new Set(made).size, 3, made.join());
    await Promise.all([1, 2, 3].map(() => capsule.ctl(["volume", "restore", "quick", made[0] ?? ""])));
    assert.equal((await names("quick")).length, 6);
    await capsule.ctl(["volume", "delete", "quick", "--snapshots"]);
  });

  test("is restored as a new volume, with what it held", async () => {
    assert.equal((await capsule.try(["volume", "restore", "data", "first", "--as", "data"])).code, 5);
    await capsule.ctl(["volume", "restore", "data", "first", "--as", "copy"]);
    await applied(user("reader", "copy"));
    assert.equal(await sh("reader", "cat /data/file"), "one\n");
    await sh("reader", "echo three >/data/file");
    assert.equal(await sh("web", "cat /data/file"), "two\n");
    await capsule.ctl(["workload", "delete", "reader"]);
    await capsule.ctl(["volume", "delete", "copy"]);
  });

  test("is restored in place when nobody runs with the volume, or --stop is given; nothing is lost", async () => {
    const refused = await capsule.try(["volume", "restore", "data", "first"]);
    assert.match(refused.stderr, /in use by web.*--stop/);
    assert.equal(await sh("web", "cat /data/file"), "two\n");
    const done = await capsule.ctl(["volume", "restore", "data", "first", "--stop"]);
    const before = /is snapshot (before-restore-\S+)/.exec(done)?.[1] ?? "";
    await capsule.until("web", ({ status }) => status.phase === "PHASE_RUNNING", "running again", 90_000 * patience);
    assert.equal(await sh("web", "cat /data/file; ls /data"), "one\nfile\n");
    assert.ok((await names("data")).includes(before));
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    await capsule.ctl(["volume", "restore", "data", before]);
    await capsule.ctl(["workload", "start", "web", "--wait"]);
    assert.equal(await sh("web", "cat /data/file"), "two\n");
  });

  test("of a smaller size is grown to the volume's", async () => {
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    await capsule.ctl(["volume", "resize", "data", "128MiB"]);
    await capsule.ctl(["volume", "restore", "data", "first"]);
    await capsule.ctl(["workload", "start", "web", "--wait"]);
    const kib = Number((await sh("web", "df -Pk /data | tail -n 1")).trim().split(/\s+/)[1]);
    assert.ok(kib > 105 * 1024, `${kib} KiB`);
    assert.equal(await sh("web", "cat /data/file"), "one\n");
  });

  test("protects its volume from being deleted by mistake, and goes when it is deleted", async () => {
    await capsule.ctl(["volume", "create", "guarded", "--size=64MiB"]);
    await capsule.ctl(["volume", "snapshot", "guarded", "s"]);
    await capsule.ctl(["volume", "snapshot", "guarded", "t"]);
    assert.match((await capsule.try(["volume", "delete", "guarded"])).stderr, /has 2 snapshots \(s, t\)/);
    assert.equal((await capsule.try(["volume", "delete-snapshot", "guarded", "s", "nothing"])).code, 3);
    assert.deepEqual(await names("guarded"), ["s", "t"], "all or none");
    await capsule.ctl(["volume", "delete-snapshot", "guarded", "s"]);
    assert.deepEqual(await names("guarded"), ["t"]);
    await capsule.ctl(["volume", "delete", "guarded", "--snapshots"]);
    assert.equal((await capsule.try(["volume", "get", "guarded"])).code, 3);
    assert.doesNotMatch((await disksOf(capsule)).join("\n"), /guarded/);
  });
});

describe("a schedule", () => {
  test("takes a snapshot at once when one is due, and keeps as many as it says", async () => {
    await capsule.ctl(["volume", "create", "timed", "--size=64MiB", "--snapshots", "daily", "--keep", "2"]);
    const deadline = Date.now() + 60_000;
    while ((await names("timed")).length === 0) {
      assert.ok(Date.now() < deadline, "no snapshot was taken");
      await sleep(500);
    }
    const [taken] = await snapshots("timed");
    assert.match(taken?.name ?? "", /^daily-/);
    assert.equal(taken?.origin, "SNAPSHOT_ORIGIN_SCHEDULE");
    assert.equal((await capsule.try(["volume", "schedule", "timed", "sometimes"])).code, 1);
    await capsule.ctl(["volume", "schedule", "timed", "none"]);
    await capsule.ctl(["volume", "delete", "timed", "--snapshots"]);
  });
});

describe("while capsuled is killed", () => {
  test("no filesystem stays frozen, no disk is left, and what was acknowledged is there", {
    timeout: emulated ? 600_000 : 180_000,
  }, async () => {
    const acknowledged: string[] = [];
    const kills = emulated ? 4 : 8;
    for (let i = 0; i < kills; i++) {
      const taking = capsule.try(["volume", "snapshot", "data", `kill-${i}`], "", 20_000);
      await sleep(150 + i * 40);
      await capsule.killCapsuled();
      await capsule.startCapsuled();
      if ((await taking).code === 0) acknowledged.push(`kill-${i}`);
      await capsule.untilServing();
      // A frozen filesystem would hold this for ever.
      assert.equal((await sh("web", "timeout 10 sh -c 'echo x >/data/probe && sync' && echo ok")).trim(), "ok");
    }
    console.log(`${acknowledged.length} of ${kills} were acknowledged`);
    const kept = await names("data");
    for (const name of acknowledged) assert.ok(kept.includes(name), `${name} is missing among ${kept.join()}`);
    await sleep(500);
    await capsule.killCapsuled();
    await capsule.untilServing();
    // One disk for each snapshot and volume, and no other; a machine has its root disk, and that its base.
    const others = 1 + (isMachine ? 2 : 0);
    const deadline = Date.now() + 20_000 * patience;
    for (;;) {
      const found = await disksOf(capsule);
      if (!found.some(isUnfinished) && found.length === others + (await names("data")).length) break;
      assert.ok(Date.now() < deadline, found.join("\n"));
      await sleep(500);
    }
    for (const name of await names("data")) await capsule.ctl(["volume", "delete-snapshot", "data", name]);
    assert.deepEqual(await names("data"), []);
  });
});
