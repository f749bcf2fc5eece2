/** A microVM that boots its own kernel and root disk: no agent of ours is in it. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ownMachine } from "../images/own-machine.ts";
import { leftOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";
import { snapshotsOf } from "../support/volumes.ts";

let capsule: TestCapsule;
let files: string;
before(async () => {
  files = mkdtempSync(join(tmpdir(), "capsule-own-kernel-"));
  await ownMachine(files);
  capsule = await TestCapsule.start("own", []);
  await capsule.ctl(["volume", "create", "root", "--size", "256MiB"]);
  for (const name of ["bin", "dev", "proc", "sbin", "www", "boot"])
    await capsule.ctl(["cp", join(files, "root", name), `volume/root:/${name}`]);
});
after(async () => {
  await capsule?.stop();
  if (files !== undefined) rmSync(files, { recursive: true, force: true });
});

const machine = (fields: string): string =>
  `kind: MicroVM\nname: own\nmicroVm:\n  rootfsPath: root\n  memoryMib: 256\n  stopTimeout: 60s\n${fields}`;
const whole =
  "  kernelPath: root/boot/vmlinuz\n  initramfsPath: root/boot/initramfs\n  kernelArgs: colour=green\n  ports: [{containerPort: 80, hostPort: 8080}]\n";

const fetched = (path: string): Promise<string> =>
  capsule.host.exec(["wget", "-q", "-T", "10", "-O", "-", `http://127.0.0.1:8080/${path}`]);

/** What its console said in its `boot`-th boot. */
async function untilSaid(expected: RegExp, boot = 1): Promise<string> {
  let logs = "";
  for (let i = 0; i < 600; i++) {
    logs = (await capsule.ctl(["workload", "logs", "own"])).split("an own root was told")[boot] ?? "";
    if (expected.test(logs)) return logs;
    await sleep(200);
  }
  assert.fail(
    `its console does not say ${expected}:\n${await capsule.ctl(["workload", "logs", "own", "--tail", "30"])}`,
  );
}

describe("an own kernel", { timeout: 600_000 }, () => {
  test("what cannot be booted is told with the reason, and what can be is booted at once", async () => {
    const wrong: readonly [string, RegExp][] = [
      ["sbin/init", /root\/sbin\/init is no kernel/],
      ["bin/busybox", /root\/bin\/busybox is a program/],
      ["boot/no-such", /root\/boot\/no-such does not exist/],
      ["bin/sh", /root\/bin\/sh is a link/],
      ["boot", /root\/boot is no file/],
    ];
    for (const [path, reason] of wrong) {
      const { code } = await capsule.apply(machine(`  kernelPath: root/${path}\n`));
      assert.equal(code, 0);
      await capsule.until("own", ({ status: { message } }) => reason.test(message), String(reason));
    }
    const nowhere = await capsule.apply(machine("  kernelPath: nowhere/vmlinuz\n"));
    assert.match(nowhere.stderr, /nowhere/);
    const both = await capsule.apply(machine(`${whole}  image: busybox:1\n`));
    assert.match(both.stderr, /microVm\.image: .*own kernel/);
    const { code, stderr } = await capsule.apply(machine(whole), "--wait=60s");
    assert.equal(code, 0, stderr);
  });

  test("boots from its volume, is told its address and its arguments, and is served by a mapped port", async () => {
    const said = await untilSaid(/^serving/m);
    assert.match(said, /root=\/dev\/vda .*ip=10\..* colour=green/);
    assert.equal(await fetched("boots"), "1\n");
    const { status } = await capsule.workload("own");
    assert.match(said, new RegExp(`ip=${status.addresses[0]}:`));
  });

  test("goes on while capsuled is killed", async () => {
    const before = await capsule.workload("own");
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    const again = await capsule.until("own", ({ status }) => status.message === "Running", "seen again");
    assert.equal(again.status.pid, before.status.pid);
    assert.equal(await fetched("boots"), "1\n");
  });

  test("says that there is no agent in it", async () => {
    for (const words of [
      ["workload", "exec", "own", "--", "true"],
      ["cp", "own:/www", files],
    ])
      assert.match((await capsule.try(words)).stderr, /own kernel/);
    assert.match((await capsule.try(["cp", join(files, "root/boot"), "volume/root:/more"])).stderr, /in use.*own/);
  });

  test("stands still for a snapshot of its disk", async () => {
    await capsule.ctl(["volume", "snapshot", "root", "running"]);
    assert.deepEqual(await snapshotsOf(capsule, "root"), ["running"]);
    assert.equal(await fetched("boots"), "1\n");
  });

  test("shuts down in order when it is stopped, and starts again", async () => {
    await capsule.ctl(["workload", "stop", "own", "--wait=60s"]);
    await untilSaid(/its power button was pressed/);
    const { status } = await capsule.workload("own");
    assert.equal(status.lastExit?.code ?? 0, 0, status.message);
    assert.equal(await capsule.ctl(["volume", "mount", "root", "cat", "/mnt/www/boots"]), "1\n");
    await capsule.ctl(["workload", "start", "own", "--wait=60s"]);
    await untilSaid(/^serving/m, 2);
    assert.equal(await fetched("boots"), "2\n");
  });

  test("leaves nothing behind, and its volume as it is", async () => {
    const { uid } = await capsule.workload("own");
    await capsule.ctl(["workload", "delete", "own"]);
    assert.equal(await leftOf(capsule, uid), "");
    assert.equal((await capsule.try(["volume", "check", "root"])).code, 0);
    assert.equal(await capsule.ctl(["volume", "mount", "root", "cat", "/mnt/www/boots"]), "2\n");
  });
});
