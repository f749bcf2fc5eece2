/**
 * What every later part stands on: the capsule's own containerd runs real containers, with limits, by both runtimes.
 * In a namespace of containerd of their own: capsuled removes from its own what belongs to no workload.
 */
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Capsule, startCapsule } from "../../image/namespace/capsule.ts";
import { buildImages } from "../images/build.ts";

const state = mkdtempSync(join(tmpdir(), "capsule-containers-test-"));
let capsule: Capsule;

before(async () => {
  const images = await buildImages();
  capsule = await startCapsule({ name: `t-ctr-${process.pid.toString(36)}`, stateDir: state });
  const deadline = Date.now() + 20_000;
  while (
    !(await capsule.exec(["ctr", "version"]).then(
      () => true,
      () => false,
    ))
  ) {
    assert.ok(Date.now() < deadline, "containerd answers within 20 s");
    await sleep(50);
  }
  for (const [name, path] of images) {
    copyFileSync(path, join(capsule.perm, `${name}.tar`));
    await capsule.exec(["ctr", "-n", "apart", "images", "import", `/perm/${name}.tar`]);
  }
});
after(async () => {
  await capsule?.stop();
  rmSync(state, { recursive: true, force: true });
});

for (const runtime of ["runc", "crun"]) {
  test(`${runtime} runs a container with a memory limit that holds`, async () => {
    const ctr = [
      "ctr",
      "-n",
      "apart",
      "run",
      "--rm",
      "--runc-binary",
      runtime,
      "--memory-limit",
      "33554432",
      "docker.io/library/busybox:1",
    ];
    const id = `t-${runtime}`;
    const script =
      "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; id -u; hostname";
    const output = await capsule.exec([...ctr, id, "sh", "-c", `mkdir -p /tmp/x; ${script}; cat /proc/self/cgroup`]);
    assert.match(output, /^0$/m);
    const group = /memory:(\S+)$/m.exec(output)?.[1] ?? /^0::(\S+)$/m.exec(output)?.[1];
    assert.ok(group, output);
    await assert.rejects(
      capsule.exec([...ctr, `${id}-oom`, "sh", "-c", "exec tail -c 200m /dev/zero"]),
      "a process that needs 200 MB is killed under a limit of 32 MiB",
    );
  });
}

test("an image without shell runs, and the hello page's user is resolved", async () => {
  await capsule.exec(["ctr", "-n", "apart", "run", "--rm", "docker.io/library/bare:1", "t-bare", "/sleep", "0"]);
  const output = await capsule.exec([
    "ctr",
    "-n",
    "apart",
    "run",
    "--rm",
    "docker.io/library/hello:1",
    "t-hello",
    "sh",
    "-c",
    "id -u; cat index.html",
  ]);
  assert.match(output, /^1000\n/);
  assert.match(output, /Hello from a container/);
});
