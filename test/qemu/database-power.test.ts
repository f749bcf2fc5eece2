/**
 * The power goes again and again while two databases write to a volume, a snapshot of it is taken and another is exported:
 * by the databases' own check nothing that they had committed is lost, on the volume, on the snapshot and on the imported
 * export. ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkInWorkload, checkVolume, committed, databaseManifest } from "../support/database.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { askAgainMs, TestCapsule } from "../support/test-capsule.ts";
import { snapshotsOf } from "../support/volumes.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? 1);
/** The copies are looked into each so many rounds, and after the last: the volume itself after each. */
const copiesEvery = 5;
/** A snapshot and the export of a volume take less, emulated. */
const longestMs = 8_000;
const random = new Random(seed);

let capsule: TestCapsule;
let host: QemuHost;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.startMachine("dbpower", ["sqlite"]);
  assert.ok(capsule.host instanceof QemuHost);
  host = capsule.host;
  const applied = await capsule.apply(
    `kind: Volume\nname: data\nsize: 64MiB\n---\n${databaseManifest("db", "data")}`,
    "--wait=120s",
  );
  assert.equal(applied.code, 0, applied.stderr);
  await untilWriting();
});
after(async () => await capsule?.stop());

/** Both databases have said a number since the workload started. */
async function untilWriting(): Promise<Record<string, number>> {
  const before = await committed(capsule, "db");
  const deadline = Date.now() + 120_000;
  for (;;) {
    const now = await committed(capsule, "db");
    const names = Object.keys(now);
    if (names.length === 2 && names.every((name) => now[name] !== before[name])) return now;
    assert.ok(Date.now() < deadline, JSON.stringify(now));
    await sleep(askAgainMs);
  }
}

test(`${rounds} power cuts under a database, with a snapshot and an export under way`, {
  timeout: 9_000_000,
}, async () => {
  let exported = { snapshot: "s-0", said: await committed(capsule, "db") };
  await capsule.ctl(["volume", "snapshot", "data", exported.snapshot]);
  for (let round = 1; round <= rounds; round++) {
    const what = `round ${round}`;
    const file = join(capsule.dir, "export.zst");
    const [name, taken] = [`s-${round}`, await untilWriting()];
    const snapshot = capsule.try(["volume", "snapshot", "data", name], "", 60_000);
    // It goes on by itself when the machine is there again.
    const exporting = capsule.try(["volume", "export", "data", file, "--snapshot", exported.snapshot], "", 600_000);
    await sleep(random.below(longestMs));
    const said = await committed(capsule, "db").catch(() => taken);
    await host.cutPower();
    const { code } = await snapshot;
    await host.startAgain();
    await capsule.untilServing();
    await capsule.until("db", ({ status }) => status.phase === "PHASE_RUNNING", "running again", 180_000);
    await checkInWorkload(capsule, "db", said, what);
    const result = await exporting;
    if (result.code !== 0) {
      const log = await capsule.ctl(["capsule", "logs", "capsuled", "-n", "40"]);
      assert.fail(`${what}: ${result.stderr.split("\n").slice(-4).join("\n")}\n${log}`);
    }
    const there = await snapshotsOf(capsule, "data");
    assert.ok(code !== 0 || there.includes(name), `${what}: the snapshot was acknowledged`);
    if (round % copiesEvery === 0 || round === rounds) {
      await capsule.ctl(["volume", "import", "imported", file]);
      await checkVolume(capsule, "imported", exported.said);
      const last = there.includes(name) ? { snapshot: name, said: taken } : exported;
      await capsule.ctl(["volume", "restore", "data", last.snapshot, "--as", "restored"]);
      await checkVolume(capsule, "restored", last.said);
    }
    if (there.includes(name)) {
      await capsule.ctl(["volume", "delete-snapshot", "data", exported.snapshot]);
      exported = { snapshot: name, said: taken };
    }
    console.log(`${what}: ${JSON.stringify(said)} committed, snapshot ${code === 0 ? "acknowledged" : "cut"}`);
  }
});
