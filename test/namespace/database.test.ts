/**
 * Two databases under load, and the disk of their volume as it is at 50 moments: what a power cut would leave. Each is
 * mounted as after a boot; the databases are whole and hold what was committed. The copies are made behind capsuled's
 * back, without bringing anything to rest, while it takes snapshots and exports. With ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkDatabase, checkVolume, committed, databaseManifest, databases } from "../support/database.ts";
import { Random } from "../support/random.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? 50);
const random = new Random(seed);
const pool = "/run/capsule/pools/default";

let capsule: TestCapsule;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("crash", ["sqlite"]);
  const manifest = `kind: Volume\nname: data\nsize: 256MiB\n---\n${databaseManifest("db", "data")}`;
  const { code, stderr } = await capsule.apply(manifest, "--wait=60s");
  assert.equal(code, 0, stderr);
});
after(async () => await capsule?.stop());

const sh = (script: string): Promise<string> => capsule.host.exec(["sh", "-ec", script]);

test(`${rounds} crash images of a volume under two databases`, { timeout: 300_000 }, async () => {
  const disk = (await sh(`ls ${pool}/disks/*`)).trim();
  assert.equal(disk.split("\n").length, 1, disk);
  await sh("mkdir /run/crash");
  const root = `/proc/${capsule.local.initPid}/root/run/crash`;
  const last: Record<string, number> = {};
  let isOver = false;
  const beside = snapshotsAndExports(() => isOver);
  beside.catch(() => undefined); // awaited below, unless an image is not as it must be
  for (let round = 0; round < rounds; round++) {
    await sleep(random.below(250));
    const copy = join(capsule.dir, "copy");
    mkdirSync(copy);
    const said = await committed(capsule, "db");
    await sh(`cp --reflink=always ${disk} ${pool}/crash && mount -o loop ${pool}/crash /run/crash`);
    try {
      // SQLite follows /proc/PID/root to somewhere else.
      for (const file of readdirSync(root).filter((name) => name.includes(".db")))
        copyFileSync(join(root, file), join(copy, file));
      for (const file of databases) {
        // Before its first commit there need not be one.
        if (said[file] === undefined && !existsSync(join(copy, file))) continue;
        last[file] = checkDatabase(join(copy, file), said[file] ?? 0, `round ${round}, ${file}`);
      }
    } catch (error) {
      isOver = true;
      throw error;
    } finally {
      await sh(`umount /run/crash && rm ${pool}/crash`);
      rmSync(copy, { recursive: true });
    }
  }
  isOver = true;
  const { count, saidBefore } = await beside;
  console.log(`${count} snapshots and exports beside them`);
  await capsule.ctl(["volume", "restore", "data", `s${count}`, "--as", "restored"]);
  await checkVolume(capsule, "restored", saidBefore);
  await capsule.ctl(["volume", "import", "imported", exported()]);
  await checkVolume(capsule, "imported", saidBefore);
  console.log(`the last image held ${JSON.stringify(last)}`);
  for (const file of databases) assert.ok((last[file] ?? 0) > 0, `${file} was written to`);
});

const exported = (): string => join(capsule.dir, "data.zst");

/** One after the other until it is over; tells what was committed before the last of each. */
async function snapshotsAndExports(
  isOver: () => boolean,
): Promise<{ readonly count: number; readonly saidBefore: Readonly<Record<string, number>> }> {
  for (let count = 1; ; count++) {
    const saidBefore = await committed(capsule, "db");
    await capsule.ctl(["volume", "snapshot", "data", `s${count}`]);
    await capsule.ctl(["volume", "export", "data", exported()]);
    if (isOver()) return { count, saidBefore };
  }
}
