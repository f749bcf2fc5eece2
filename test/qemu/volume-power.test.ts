/**
 * The power goes while two databases write to a volume and others are created, snapshotted, restored, grown, imported and
 * deleted on a thin pool: what was acknowledged is there afterwards, whole, and nothing else is. ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkInWorkload, committed, databaseManifest } from "../support/database.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { TestCapsule } from "../support/test-capsule.ts";
import { disksOf, volumesOf } from "../support/volumes.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? 1);
const random = new Random(seed);

let capsule: TestCapsule;
let host: QemuHost;
let file: string;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.startMachine("vpower", ["sqlite"]);
  assert.ok(capsule.host instanceof QemuHost);
  host = capsule.host;
  file = join(capsule.dir, "export.zst");
});
after(async () => await capsule?.stop());

const writer = `kind: Volume\nname: data\nsize: 128MiB\n---\n${databaseManifest("web", "data")}`;

test(`${rounds} power cuts during volume operations`, { timeout: 1_500_000 }, async () => {
  const applied = await capsule.apply(writer, "--wait=120s");
  assert.equal(applied.code, 0, applied.stderr);
  await capsule.ctl(["volume", "snapshot", "data", "base"]);
  await capsule.ctl(["volume", "export", "data", file, "--snapshot", "base"]);
  const acknowledged = new Set<string>(["data"]);
  const deleted = new Set<string>();
  const snapshots = new Set<string>(["base"]);
  for (let round = 0; round < rounds; round++) {
    const ran: Promise<void>[] = [];
    const run = async (args: string[], done: () => void): Promise<void> => {
      if ((await capsule.try(args, "", 30_000)).code === 0) done();
    };
    const [a, b, c] = [`a${round}`, `b${round}`, `c${round}`];
    const victim = [...acknowledged].find((name) => name !== "data");
    ran.push(run(["volume", "create", a, "--size", "64MiB"], () => acknowledged.add(a)));
    ran.push(run(["volume", "snapshot", "data", `s${round}`], () => snapshots.add(`s${round}`)));
    ran.push(run(["volume", "restore", "data", "base", "--as", b], () => acknowledged.add(b)));
    ran.push(run(["volume", "import", c, file], () => acknowledged.add(c)));
    ran.push(run(["volume", "resize", "data", `${132 + round * 4}MiB`, "--no-wait"], () => undefined));
    if (victim !== undefined) {
      acknowledged.delete(victim);
      ran.push(run(["volume", "delete", victim, "--no-wait"], () => deleted.add(victim)));
    }
    await sleep(3_000 + random.below(12_000));
    const said = await committed(capsule, "web").catch(() => ({}));
    await host.cutPower();
    await Promise.all(ran);
    await host.startAgain();
    await capsule.untilServing();
    await capsule.until("web", ({ status }) => status.phase === "PHASE_RUNNING", "running again", 180_000);
    const deadline = Date.now() + 120_000;
    for (;;) {
      const open = [...(await volumesOf(capsule)).values()].filter(
        ({ status }) => status.phase !== "VOLUME_PHASE_READY",
      );
      if (open.length === 0) break;
      assert.ok(Date.now() < deadline, JSON.stringify(open));
      await sleep(1_000);
    }
    const found = await volumesOf(capsule);
    for (const name of acknowledged) assert.ok(found.has(name), `round ${round}: ${name} was acknowledged`);
    for (const name of deleted) assert.ok(!found.has(name), `round ${round}: ${name} was deleted`);
    const list = await capsule.ctl(["volume", "snapshots", "data"]);
    for (const name of snapshots) assert.match(list, new RegExp(`^${name} `, "m"), `round ${round}`);
    assert.doesNotMatch(list, /MISSING/);
    await checkInWorkload(capsule, "web", said, `round ${round}`);
    for (const name of found.keys())
      assert.match(await capsule.ctl(["volume", "check", name]), /clean/, `round ${round}: ${name}`);
    // One is enough for the next round to delete.
    for (const name of found.keys()) {
      if (name === "data" || name === c) continue;
      await capsule.ctl(["volume", "delete", name]);
      acknowledged.delete(name);
    }
    console.log(
      `round ${round}: ${JSON.stringify(said)} committed, ${found.size} volumes, ${snapshots.size} snapshots`,
    );
  }
  // One volume or snapshot for each disk, none besides.
  const disks = await disksOf(capsule);
  assert.deepEqual(
    disks.filter((name) => !name.startsWith("vol-") && !name.startsWith("snap-")),
    [],
  );
  assert.equal(disks.filter((name) => name.startsWith("vol-")).length, (await volumesOf(capsule)).size);
});
