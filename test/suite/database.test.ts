/** Databases under load: what snapshots, restores, exports and imports hold of them is whole, and all that was committed. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkVolume, committed, databaseManifest, databases } from "../support/database.ts";
import { askAgainMs, emulated, TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("database", ["sqlite"]);
  await applied(`kind: Volume\nname: data\nsize: 64MiB\n---\n${databaseManifest("db", "data")}`);
  const deadline = Date.now() + 60_000;
  while (Object.keys(await committed(capsule, "db")).length < databases.length) {
    assert.ok(Date.now() < deadline, await capsule.ctl(["workload", "logs", "db"]));
    await sleep(askAgainMs);
  }
});
after(async () => await capsule?.stop());

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=120s");
  assert.equal(code, 0, stderr);
}

test("snapshots, restored as volumes", async () => {
  const taken: Record<string, number>[] = [];
  for (let i = 0; i < (emulated ? 2 : 3); i++) {
    taken.push(await committed(capsule, "db"));
    await capsule.ctl(["volume", "snapshot", "data", `s${i}`]);
  }
  for (const [i, said] of taken.entries()) {
    await capsule.ctl(["volume", "restore", "data", `s${i}`, "--as", `r${i}`]);
    await checkVolume(capsule, `r${i}`, said);
  }
});

test("an export that is taken under load, imported", async () => {
  const said = await committed(capsule, "db");
  const file = join(capsule.dir, "data.zst");
  await capsule.ctl(["volume", "export", "data", file]);
  await capsule.ctl(["volume", "import", "imported", file]);
  await checkVolume(capsule, "imported", said);
});

test("a restore gives back what the snapshot held, and the database goes on", async () => {
  await capsule.ctl(["volume", "snapshot", "data", "back"]);
  await capsule.ctl(["volume", "restore", "data", "back", "--stop"]);
  await capsule.until("db", ({ status }) => status.phase === "PHASE_RUNNING", "running", 60_000);
  const before = await committed(capsule, "db");
  const deadline = Date.now() + 60_000;
  for (;;) {
    const now = await committed(capsule, "db");
    // It may have gone back to a smaller number: that it says another one is what counts.
    if (databases.every((file) => now[file] !== undefined && now[file] !== before[file])) break;
    assert.ok(Date.now() < deadline, JSON.stringify(now));
    await sleep(askAgainMs);
  }
});
