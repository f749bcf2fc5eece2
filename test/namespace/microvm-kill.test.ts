/**
 * A microVM that writes to a volume, while its monitor or capsuled is killed at random moments of its
 * start and its run: it comes up again, loses nothing that was on the disk, and leaves nothing behind. ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { leftOf, processesOf, workloadOf } from "../support/machines.ts";
import { Random } from "../support/random.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const rounds = Number(process.env["ROUNDS"] ?? 3);
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
/** A boot, emulated, and some of the run. */
const longestMs = 12_000;

let capsule: TestCapsule;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("vmkill", ["busybox"]);
});
after(async () => await capsule?.stop());

// Each number is on the disk before the next one is written.
const counts =
  "n=$(cat /data/n 2>/dev/null || echo 0); while :; do n=$((n + 1)); echo $n >/data/next; sync; mv /data/next /data/n; sync; done";
const manifest = (round: number): string =>
  workloadOf(
    "MicroVM",
    "victim",
    "busybox:1",
    `  command: [sh, -c, ${JSON.stringify(counts)}]\n  env: [{name: ROUND, value: "${round}"}]\n  memoryMib: 128\n  stopTimeout: 1s\n  mounts: [{volumeName: data, mountPath: /data}]`,
  );
const written = async (): Promise<number> =>
  Number(await capsule.ctl(["workload", "exec", "victim", "--", "cat", "/data/n"]));

test(`${rounds} kills of a monitor or of capsuled`, { timeout: 120_000 + rounds * 120_000 }, async () => {
  const random = new Random(seed);
  const volume = await capsule.apply(`kind: Volume\nname: data\nsize: 64MiB\n---\n${manifest(0)}`, "--wait=120s");
  assert.equal(volume.code, 0, volume.stderr);
  const { uid } = await capsule.workload("victim");
  assert.ok(uid);
  let before = await untilWriting(0);
  for (let round = 1; round <= rounds; round++) {
    // A change of the spec replaces it: the kill meets its end, its start or its run.
    if (random.below(2) === 0) assert.equal((await capsule.apply(manifest(round))).code, 0);
    await sleep(random.below(longestMs));
    const what = `round ${round}: ${await kill(random, uid)}`;
    await capsule.until("victim", ({ status }) => status.phase === "PHASE_RUNNING", `running again, ${what}`, 120_000);
    before = await untilWriting(before);
    console.log(`${what}: ${before} written`);
    await onlyOne(uid, what);
  }
  await capsule.ctl(["workload", "delete", "victim"]);
  assert.equal(await leftOf(capsule, uid), "");
  assert.deepEqual(await processesOf(capsule, "qemu-system"), []);
  assert.match(await capsule.ctl(["volume", "check", "data"]), /clean|no fault|nothing/i);
});

/** Kills one of them; returns which. */
async function kill(random: Random, uid: string): Promise<string> {
  const victim = ["capsuled", "monitor"][random.below(2)] ?? "capsuled";
  if (victim === "capsuled") {
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    return victim;
  }
  // There may be none in this moment.
  const file = `/run/capsule/vm/${uid}/${victim}.pid`;
  await capsule.host.exec(["sh", "-c", `read -r pid _ <${file} && kill -9 $pid; true`]);
  return victim;
}

/** Waits until it has written more than it had; nothing of that may be lost. */
async function untilWriting(before: number): Promise<number> {
  const deadline = Date.now() + 120_000;
  for (;;) {
    const now = await written().catch(() => undefined);
    if (now !== undefined) assert.ok(now >= before, `${now} after ${before}`);
    if (now !== undefined && now > before) return now;
    assert.ok(Date.now() < deadline, `it does not write: ${JSON.stringify((await capsule.workload("victim")).status)}`);
    await sleep(200);
  }
}

/** Of everything that a machine has there is one. */
async function onlyOne(uid: string, what: string): Promise<void> {
  const programs = await Promise.all(
    (await processesOf(capsule, uid)).map(
      async (path) => (await capsule.host.exec(["sh", "-c", `tr '\\0' ' ' <${path} || true`])).split(" ")[0],
    ),
  );
  const monitors = programs.filter((program) => program?.includes("qemu-system"));
  assert.equal(monitors.length, 1, `${what}: ${programs.join(", ")}`);
  const disks = await capsule.host.exec([
    "sh",
    "-c",
    "ls /run/capsule/pools/default/disks /run/capsule/pools/default/new",
  ]);
  const roots = disks.split("\n").filter((name) => name.includes(uid));
  assert.equal(roots.length, 1, `${what}: ${disks}`);
}
