/** A machine's life with updates, boot by boot, on a disk in files; GRUB's part is done by grub-editenv. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, test } from "node:test";
import { knownSchema, schemaOf } from "../store/backup.ts";
import { Store } from "../store/store.ts";
import { databaseCopy } from "./settle.ts";
import { aBundle, healthy, inChunks, TestDisk } from "./slot-disk.test-support.ts";
import type { Updates } from "./updates.ts";

let disk: TestDisk;
let updates: Updates;
beforeEach(async () => {
  disk = new TestDisk();
  new Store(disk.databasePath).close();
  updates = await disk.boot();
});
afterEach(async () => {
  await updates.stop();
  disk.remove();
});

const never = new AbortController().signal;
const push = async (version = "2.0.0", epoch = 5): Promise<unknown> => {
  const { head, bytes } = aBundle({ version, epoch });
  const start = { head, sizeBytes: bytes.length, offset: 0, allowDowngrade: false };
  return await updates.push({ ...start, confirmWithinMs: 900_000, autoConfirmMs: undefined }, inChunks(bytes), never);
};
const boot = async (): Promise<void> => {
  await updates.stop();
  updates = await disk.boot();
};
const reasonOf = (reason: string) => (error: unknown) => (error as { reason?: string }).reason === reason;
const meta = (key: string, value?: string): string | undefined => {
  const store = new Store(disk.databasePath);
  if (value !== undefined) store.meta.set(key, value);
  const found = store.meta.get(key);
  store.close();
  return found;
};
/** As a version with a newer schema would leave it. */
const migrate = (): void => {
  const db = new DatabaseSync(disk.databasePath);
  db.exec(`PRAGMA user_version = ${knownSchema + 1}`);
  db.close();
};

test("pushed, tried, confirmed, and there to stay", async () => {
  await push();
  await boot();
  assert.deepEqual((await updates.status()).choice, { confirmed: "a", trying: "b", tries: 0 });
  assert.equal((await updates.status()).onTrial, true);
  assert.match(updates.warnings()[0] ?? "", /2\.0\.0 is on trial/);
  await assert.rejects(push("3.0.0"), reasonOf("TRIAL_UNDER_WAY"));
  assert.deepEqual(await updates.confirm(), { version: "2.0.0", epoch: 5 });
  const { choice, state, onTrial } = await updates.status();
  assert.deepEqual(choice, { confirmed: "b", trying: undefined, tries: 0 });
  assert.deepEqual([state.pending, onTrial, state.epochFloor], [undefined, false, 5]);
  await boot();
  assert.equal((await updates.status()).running, "b");
  await assert.rejects(updates.confirm(), reasonOf("NO_TRIAL"));
  await push("3.0.0");
  assert.equal((await updates.status()).pending?.slot, "a", "the next one goes to the other slot");
});

test("a trial that ends without a word is rolled back, told once, and its slot is empty", async () => {
  await push();
  await boot();
  await boot();
  assert.equal((await updates.status()).running, "a");
  assert.deepEqual(
    disk.outcomes.map(({ kind, version }) => [kind, version]),
    [["rolledBack", "2.0.0"]],
  );
  assert.match(updates.warnings()[0] ?? "", /2\.0\.0 was rolled back .*panicked/);
  assert.deepEqual((await updates.status()).choice, { confirmed: "a", trying: undefined, tries: 0 });
  await assert.rejects(updates.rollback(), reasonOf("NO_OTHER_VERSION"));
  await boot();
  assert.equal(disk.outcomes.length, 1);
});

test("an operator goes back from a trial, before one, and after one", async () => {
  await push();
  assert.deepEqual(await updates.rollback(), { version: "1.0.0", reboots: false });
  await boot();
  assert.equal((await updates.status()).running, "a", "taken back before it was started");
  await push();
  await boot();
  assert.deepEqual(await updates.rollback(), { version: "1.0.0", reboots: true });
  await boot();
  assert.equal((await updates.status()).state.last?.reason, "an operator went back");
  await push();
  await boot();
  await updates.confirm();
  await boot();
  assert.deepEqual(await updates.rollback(), { version: "1.0.0", reboots: true });
  await boot();
  const { running, onTrial } = await updates.status();
  assert.deepEqual([running, onTrial], ["a", true], "a way back is a trial too");
  await updates.confirm();
  await boot();
  assert.equal((await updates.status()).running, "a");
});

test("what is not healthy is not confirmed, and why", async () => {
  await push();
  await boot();
  disk.health = { ...healthy, workloads: [{ name: "web", isWanted: true, isRunning: false }] };
  await assert.rejects(updates.confirm(), /workloads that ran do not: web/);
  disk.health = healthy;
  await updates.confirm();
});

test("a start of capsuled alone changes nothing: neither what is staged nor a trial", async () => {
  await push();
  await updates.stop();
  updates = await disk.start("a", false);
  assert.deepEqual((await updates.status()).choice, { confirmed: "a", trying: "b", tries: 1 });
  await boot();
  await updates.stop();
  updates = await disk.start("b", true);
  assert.equal((await updates.status()).onTrial, true);
  await updates.confirm();
});

test("a power cut between the record and the boot loader, either way, ends well", async () => {
  await push();
  const { boot: environment } = await disk.open("a", false);
  // Staged in the record alone.
  await environment.clear();
  await boot();
  assert.deepEqual(
    disk.outcomes.map(({ kind }) => kind),
    ["cancelled"],
  );
  await push();
  await boot();
  // Confirmed for the boot loader alone.
  await environment.confirm("b");
  await boot();
  const { running, onTrial, state } = await updates.status();
  assert.deepEqual([running, onTrial, state.pending, state.last?.kind], ["b", false, undefined, "confirmed"]);
});

test("a trial that did not change the schema leaves what was written meanwhile", async () => {
  await push();
  await boot();
  meta("written", "in the trial");
  await boot();
  assert.equal(meta("written"), "in the trial");
});

test("the database from before an update comes back with the version that reads it", async () => {
  meta("written", "before");
  await push();
  await boot();
  meta("written", "in the trial");
  migrate();
  await boot();
  assert.equal(schemaOf(disk.databasePath), knownSchema);
  assert.equal(meta("written"), "before");
});

test("and it does so after a power cut in the middle of it", async () => {
  meta("written", "before");
  await push();
  await boot();
  migrate();
  const copy = databaseCopy(disk.updateDir, "a");
  const record = readFileSync(join(disk.updateDir, "state.json"));
  // Its log is gone, the copy is not yet in its place.
  for (const beside of ["-wal", "-shm"]) rmSync(`${disk.databasePath}${beside}`, { force: true });
  await boot();
  assert.equal(meta("written"), "before");
  // It is in its place, and that was not yet written down.
  assert.ok(!existsSync(copy));
  writeFileSync(join(disk.updateDir, "state.json"), record);
  await updates.stop();
  const { boot: environment } = await disk.open("a", false);
  await environment.stage("b");
  meta("written", "afterwards");
  updates = await disk.start("a", false, { bootId: "another" });
  assert.equal((await updates.status()).state.last?.kind, "rolledBack");
  assert.equal(meta("written"), "afterwards", "once, and not again");
});

test("going back to an older version after a confirmation brings the database that it left", async () => {
  meta("written", "by 1");
  await push();
  await boot();
  await updates.confirm();
  meta("written", "by 2");
  migrate();
  await boot();
  await updates.rollback();
  await boot();
  assert.equal(schemaOf(disk.databasePath), knownSchema);
  assert.equal(meta("written"), "by 1");
  // And forward again, when the older one is not confirmed: the newer database is there too.
  await boot();
  assert.equal((await updates.status()).running, "b");
  assert.equal(schemaOf(disk.databasePath), knownSchema + 1);
  assert.ok(existsSync(disk.databasePath));
});
