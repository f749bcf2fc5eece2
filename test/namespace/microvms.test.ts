/** MicroVMs as a user of capsulectl sees them, emulated: in an emulated machine they would be emulated twice. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { leftOf, processesOf, workloadOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let files: string;
before(async () => {
  capsule = await TestCapsule.start("vm", ["busybox"]);
  files = mkdtempSync(join(tmpdir(), "capsule-vm-files-"));
});
after(async () => {
  await capsule?.stop();
  if (files !== undefined) rmSync(files, { recursive: true, force: true });
});

const machine = (name: string, fields: string, kind: "MicroVM" | "Container" = "MicroVM"): string =>
  workloadOf(kind, name, "busybox:1", fields);
const script = (text: string): string =>
  `  command: [sh, -c, ${JSON.stringify(text)}]\n  stopTimeout: 1s\n  memoryMib: 128`;
const sh = (name: string, text: string): Promise<string> =>
  capsule.ctl(["workload", "exec", name, "--", "sh", "-c", text]);
/** Emulated, and beside other tests: a boot takes 4 to 15 s. */
const wait = "--wait=120s";

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, wait);
  assert.equal(code, 0, stderr);
}

async function uidOf(name: string): Promise<string> {
  const { uid } = await capsule.workload(name);
  assert.ok(uid, name);
  return uid;
}

/** What was written at the start may come a moment after it runs. */
async function untilLogged(name: string, expected: RegExp): Promise<void> {
  let logs = "";
  for (let i = 0; i < 100 && !expected.test(logs); i++) {
    logs = await capsule.ctl(["workload", "logs", name]);
    await sleep(100);
  }
  assert.match(logs, expected);
}

describe("a microVM", { timeout: 600_000 }, () => {
  test("is started once it is known whether KVM works; whoever tries that ends with capsuled", async () => {
    assert.equal((await capsule.apply(machine("first", script("sleep 1d")))).code, 0);
    const probes = (): Promise<string[]> => processesOf(capsule, "console=ttyS0 reboot=t");
    const isRunning = async (): Promise<boolean> => (await capsule.workload("first")).status.phase === "PHASE_RUNNING";
    // Where it works that is soon known; where it does not, it is tried for seconds.
    while ((await probes()).length === 0 && !(await isRunning())) await sleep(20);
    await capsule.killCapsuled();
    // Before the next one could ask.
    await sleep(100);
    assert.deepEqual(await probes(), []);
    await capsule.startCapsuled();
    await capsule.untilServing();
    await capsule.until("first", ({ status }) => status.phase === "PHASE_RUNNING", "running", 120_000);
    await capsule.ctl(["workload", "delete", "first"]);
  });

  test("runs the image with a kernel of its own: logs, commands, files, address, port", async () => {
    const served = "echo served >/www/index.html; exec httpd -f -p 8080 -h /www";
    await applied(
      machine(
        "web",
        `${script(`echo kernel $(uname -r); echo error >&2; mkdir -p /www; ${served}`)}\n  ports: [{containerPort: 8080, hostPort: 8080}]\n  env: [{name: GREETING, value: hello}]`,
      ),
    );
    await untilLogged("web", /^kernel .*cloud/m);
    const { code, stdout } = await capsule.try(["workload", "exec", "web", "--", "sh", "-c", "echo $GREETING; exit 7"]);
    assert.deepEqual([code, stdout], [7, "hello\n"]);
    const input = await capsule.try(["workload", "exec", "-i", "web", "--", "cat"], "through stdin");
    assert.equal(input.stdout, "through stdin");
    assert.match((await capsule.try(["workload", "exec", "web", "--", "no-such-program"])).stderr, /no-such-program/);
    const page = await capsule.host.exec(["wget", "-q", "-T", "10", "-O", "-", "http://127.0.0.1:8080/"]);
    assert.equal(page, "served\n");
    assert.match(await sh("web", "nslookup web.capsule.internal 2>&1; hostname"), /^web$/m);

    writeFileSync(join(files, "in"), "copied");
    await capsule.ctl(["cp", join(files, "in"), "web:/www/copied"]);
    await capsule.ctl(["cp", "web:/www/copied", join(files, "out")]);
    assert.equal(readFileSync(join(files, "out"), "utf8"), "copied");
  });

  test("survives capsuled, and its log has no gap and no line twice", async () => {
    await applied(machine("counts", script("i=0; while :; do i=$((i + 1)); echo line $i; sleep 0.05; done")));
    const { status } = await capsule.workload("counts");
    for (let i = 0; i < 3; i++) {
      await sleep(500);
      await capsule.killCapsuled();
      await capsule.startCapsuled();
      await capsule.untilServing();
    }
    await sleep(1_500);
    const now = await capsule.workload("counts");
    assert.equal(now.status?.pid, status?.pid, "the same monitor");
    assert.match(await sh("counts", "echo answers"), /answers/);
    const numbers = (await capsule.ctl(["workload", "logs", "counts"]))
      .trim()
      .split("\n")
      .map((line) => Number(line.slice(5)));
    assert.ok(numbers.length > 20, `${numbers.length} lines`);
    assert.deepEqual(
      numbers,
      [...numbers.keys()].map((i) => i + 1),
    );
  });

  test("stands still while it is paused, and its clock is right afterwards", async () => {
    const { status } = await capsule.workload("counts");
    await capsule.ctl(["workload", "pause", "counts", wait]);
    await sleep(1_000);
    const lines = await capsule.ctl(["workload", "logs", "counts"]);
    assert.match((await capsule.try(["workload", "exec", "counts", "--", "true"])).stderr, /paused.*workload resume/);
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    await sleep(2_000);
    assert.equal(await capsule.ctl(["workload", "logs", "counts"]), lines);
    await capsule.ctl(["workload", "resume", "counts", wait]);
    assert.equal((await capsule.workload("counts")).status?.pid, status?.pid);
    const seconds = Number(await sh("counts", "date +%s"));
    assert.ok(Math.abs(seconds - Date.now() / 1_000) < 3, `${seconds} for ${Date.now() / 1_000}`);
    await untilLogged("counts", new RegExp(`^line ${lines.trim().split("\n").length + 1}$`, "m"));
  });

  test("shows its console", async () => {
    const console = await capsule.ctl(["workload", "logs", "counts", "--serial"]);
    assert.match(console, /capsule-guest: ready/);
    assert.equal(
      (await capsule.ctl(["workload", "logs", "counts", "--serial", "-n", "1"])).trim().split("\n").length,
      1,
    );
    const both = await capsule.try(["workload", "logs", "counts", "--serial", "--stdout"]);
    assert.deepEqual([both.code, both.stderr.includes("a log of its own")], [2, true]);
  });

  test("whose monitor is killed starts again, and it is told why", async () => {
    const { status } = await capsule.workload("counts");
    await capsule.host.exec(["kill", "-9", String(status?.pid)]);
    await capsule.until(
      "counts",
      ({ status: now }) => (now?.pid ?? 0) !== 0 && now?.pid !== status?.pid,
      "started again",
      90_000,
    );
    assert.match(await capsule.ctl(["workload", "events", "counts"]), /virtual machine monitor was killed by signal 9/);
  });

  test("stops, stays stopped, keeps its disk until it is replaced; deleted, nothing of it is left", async () => {
    await sh("web", "echo kept >/kept; sync");
    await capsule.ctl(["workload", "stop", "web", wait]);
    assert.equal((await capsule.workload("web")).status?.phase, "PHASE_STOPPED");
    await capsule.ctl(["workload", "start", "web", wait]);
    assert.equal(await sh("web", "cat /kept"), "kept\n");
    const uids = await Promise.all(["web", "counts"].map(uidOf));
    for (const name of ["web", "counts"]) await capsule.ctl(["workload", "delete", name]);
    for (const uid of uids) assert.equal(await leftOf(capsule, uid), "");
  });

  test("has a volume as its disk; as a container it sees the same data, and back", async () => {
    const mount = "  mounts: [{volumeName: data, mountPath: /data}]\n  stopTimeout: 1s\n  command: [sleep, 1d]";
    await applied(`kind: Volume\nname: data\nsize: 64MiB\n---\n${machine("db", mount)}`);
    await sh("db", "echo of a microVM >/data/written; sync");
    await capsule.ctl(["volume", "snapshot", "data", "while-it-runs"]);
    await applied(machine("db", mount, "Container"));
    assert.equal(
      await sh("db", "cat /data/written; echo of a container >>/data/written; uname -r | grep -c cloud || true"),
      "of a microVM\n0\n",
    );
    await applied(machine("db", mount));
    assert.equal(await sh("db", "cat /data/written"), "of a microVM\nof a container\n");
    const second = await capsule.apply(machine("second", mount), "--wait=5s");
    assert.match(second.stderr, /data.*db|db.*data/);
    await capsule.ctl(["workload", "delete", "db"]);
    assert.match(await capsule.ctl(["volume", "check", "data"]), /clean|no fault|nothing/i);
  });

  test("that cannot be is refused with the reason, and the next one works", async () => {
    for (const [fields, expected] of [
      ["  memoryMib: 8", /microVm\.memoryMib.*at least 96/],
      ["  networkMode: HOST", /microVm\.networkMode/],
      ["  kernelPath: /vmlinuz", /microVm\.kernelPath/],
      ["  vcpus: 1000", /microVm\.vcpus.*processors/],
      ["  backend: FIRECRACKER", /microVm\.backend.*without Firecracker/],
    ] as const) {
      const { code, stderr } = await capsule.apply(machine("wrong", fields));
      assert.notEqual(code, 0);
      assert.match(stderr, expected);
    }
    await capsule.apply(machine("wrong", "  command: [/no/such/program]\n  memoryMib: 128"));
    await capsule.until(
      "wrong",
      ({ status }) => status?.message?.includes("/no/such/program") === true,
      "failed",
      60_000,
    );
    await applied(machine("wrong", script("sleep 1d")));
    await capsule.ctl(["workload", "delete", "wrong"]);
  });
});
