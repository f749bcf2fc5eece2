/**
 * Many containers from one file, and capsuled killed again and again while they come up: every one comes up, and no one
 * that ran is disturbed. And a container whose shim hangs.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { processesOf, sleeperOf } from "../support/machines.ts";
import { Random } from "../support/random.ts";
import { emulated, TestCapsule } from "../support/test-capsule.ts";

// An emulated machine takes some twenty times as long for each of them.
const [count, kills] = emulated ? [16, 5] : [200, 20];
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

let capsule: TestCapsule;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("kill", ["bare", "busybox"]);
});
after(async () => await capsule?.stop());

const manifest = Array.from(
  { length: count },
  (_, i) => `kind: Container\nname: c${i}\ncontainer: {image: "bare:1", stopTimeout: 1s}\n`,
).join("---\n");

/** Pid and start time, as the capsule sees them, of all containers' first processes. */
async function running(): Promise<Map<string, string>> {
  const tasks = await capsule.host.exec(["ctr", "-n", "capsule", "tasks", "ls"]);
  const found = new Map<string, string>();
  // Of what ends between the two looks there is no line: the comparison will tell.
  const stats = await capsule.host.exec(["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true"]);
  const startTimes = new Map(
    stats
      .split("\n")
      .map((stat) => [stat.slice(0, stat.indexOf(" ")), stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]]),
  );
  for (const line of tasks.split("\n").slice(1)) {
    const [id, pid, state] = line.trim().split(/\s+/);
    if (state !== "RUNNING" || id === undefined) continue;
    const startTime = startTimes.get(pid ?? "");
    if (startTime !== undefined) found.set(id, `${pid} ${startTime}`);
  }
  return found;
}

test(`${count} containers come up while capsuled is killed ${kills} times, and none is disturbed`, {
  timeout: 900_000,
}, async () => {
  const random = new Random(seed);
  const applied = await capsule.apply(manifest);
  assert.equal(applied.code, 0, applied.stderr);
  const seen = new Map<string, string>();
  let killed = 0;
  while (killed < kills) {
    await sleep((100 + random.below(1_400)) * (emulated ? 5 : 1));
    if ((await capsule.capsuledPid()) === undefined) continue;
    for (const [id, process] of await running()) {
      assert.equal(seen.get(id) ?? process, process, `container ${id} was restarted`);
      seen.set(id, process);
    }
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    killed++;
  }
  console.log(`${seen.size} ran at the last kill`);
  await capsule.untilServing();
  const again = await capsule.apply(manifest, "--wait=300s");
  assert.equal(again.code, 0, again.stderr.split("\n").slice(-10).join("\n"));
  const workloads = await capsule.workloads();
  assert.equal(workloads.length, count, "every acknowledged workload is there");
  assert.ok(workloads.every(({ status }) => status.phase === "PHASE_RUNNING"));
  const now = await running();
  assert.equal(now.size, count, "exactly one container for each");
  for (const [id, process] of seen) assert.equal(now.get(id), process, `container ${id} was disturbed`);
  const addresses = workloads.flatMap(({ status }) => status.addresses);
  assert.equal(new Set(addresses).size, addresses.length, "no address twice");
});

test("delete leaves nothing of them", { timeout: 240_000 }, async () => {
  const deleted = await capsule.try(["delete", "-f", "-"], manifest, 200_000);
  assert.equal(deleted.code, 0, deleted.stderr);
  assert.deepEqual(await capsule.workloads(), []);
  const left = await capsule.host.exec([
    "sh",
    "-c",
    "ctr -n capsule c ls -q; ctr -n capsule t ls -q; ls /perm/workloads /run/capsule/workloads /run/capsule/dns/hosts.d; ip -br link show type veth",
  ]);
  assert.doesNotMatch(left, /w[a-z2-7]{12}/);
  const snapshots = await capsule.host.exec(["ctr", "-n", "capsule", "snapshots", "ls"]);
  assert.doesNotMatch(snapshots, /^w[a-z2-7]{12}/m);
  assert.doesNotMatch(await capsule.host.exec(["nft", "list", "table", "bridge", "capsule"]), /w[a-z2-7]{12}/);
});

test("one whose shim does not answer is left to run, and can be stopped", { timeout: 600_000 }, async () => {
  const name = "silent";
  const applied = await capsule.apply(sleeperOf(name, ""), "--wait=60s");
  assert.equal(applied.code, 0, applied.stderr);
  const { uid, status: before } = await capsule.workload(name);
  const shim = async (signal: string): Promise<void> => {
    for (const file of await processesOf(capsule, uid)) {
      const command = await capsule.host.exec(["cat", file]);
      if (command.includes("containerd-shim"))
        await capsule.host.exec(["kill", `-${signal}`, file.split("/")[2] ?? ""]);
    }
  };
  await shim("STOP");
  await capsule.killCapsuled();
  await capsule.startCapsuled();
  await capsule.untilServing();
  const silent = await capsule.until(name, ({ status: { message } }) => /does not answer/.test(message), "silent");
  assert.equal(silent.status.phase, "PHASE_RUNNING");
  assert.equal(silent.status.pid, before.pid);
  assert.match((await capsule.try(["workload", "exec", name, "--", "true"])).stderr, /does not answer/);
  await shim("CONT");
  const again = await capsule.until(name, ({ status: { message } }) => message === "Running", "heard again");
  assert.equal(again.status.pid, before.pid, "it was not restarted");

  await shim("STOP");
  await capsule.ctl(["workload", "stop", name, "--wait=120s"]);
  assert.deepEqual([...(await running())], [], "no process is left");
  await capsule.ctl(["workload", "start", name, "--wait=60s"]);
  await capsule.ctl(["workload", "delete", name]);
});
