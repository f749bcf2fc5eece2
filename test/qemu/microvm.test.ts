/**
 * A microVM on a machine, with the real /dev/kvm of its kernel. Where the machine itself is emulated, so is the processor's
 * virtualisation (QEMU's `-cpu max` has AMD's), and all is slow: one workload, not the suite.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { workloadOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.startMachine("kvm", ["busybox"]);
  await capsule.ctl(["volume", "create", "data", "--size", "32MiB"]);
});
after(async () => await capsule?.stop());

const sh = (script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", "vm", "--", "sh", "-c", script], "", 120_000);

test("it runs on KVM: logs, commands, a volume that keeps what was written", { timeout: 1_200_000 }, async () => {
  const fields = '  command: [sh, -c, "echo kernel $(uname -r); exec sleep 1d"]\n  memoryMib: 128\n  stopTimeout: 0s';
  const manifest = workloadOf(
    "MicroVM",
    "vm",
    "busybox:1",
    `${fields}\n  mounts: [{volumeName: data, mountPath: /data}]`,
  );
  const began = Date.now();
  const { code, stderr } = await capsule.apply(manifest, "--wait=600s");
  assert.equal(code, 0, `${stderr}${await capsule.log()}`);
  console.log(`RUNNING after ${Date.now() - began} ms`);
  assert.match(await capsule.host.exec(["cat", "/perm/log/capsuled.log"]), /microVMs run on KVM/);
  assert.match(await capsule.ctl(["workload", "logs", "vm"]), /^kernel [0-9.]+/);
  assert.equal(await sh("echo kept >/data/file; cat /data/file"), "kept\n");
  const again = Date.now();
  await capsule.ctl(["workload", "restart", "vm", "--wait=600s"]);
  console.log(`again RUNNING after ${Date.now() - again} ms`);
  assert.equal(await sh("cat /data/file"), "kept\n");
  // Another capsuled does not ask once more, which beside a machine that runs takes longer than anybody waits.
  await capsule.killCapsuled();
  await capsule.startCapsuled();
  await capsule.untilServing();
  await capsule.ctl(["workload", "restart", "vm", "--wait=600s"]);
  assert.equal(await sh("cat /data/file"), "kept\n");
  const told = await capsule.host.exec(["sh", "-c", "cat /run/capsule/vm/*/monitor.json"]);
  assert.match(told, /"-accel","kvm"/);
  await capsule.ctl(["workload", "delete", "vm"], "", 120_000);
});
