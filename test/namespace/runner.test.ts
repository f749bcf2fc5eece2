import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AlreadyRunningError,
  type Capsule,
  findCapsule,
  leftovers,
  startCapsule,
  stopCapsule,
} from "../../image/namespace/capsule.ts";
import { processesOf } from "../../image/namespace/cgroups.ts";

const suffix = process.pid.toString(36);
const stateRoot = mkdtempSync(join(tmpdir(), "capsule-runner-test-"));
const started = new Set<string>();

async function start(label: string): Promise<Capsule> {
  const name = `t-${label}-${suffix}`;
  started.add(name);
  return await startCapsule({ name, stateDir: join(stateRoot, name) });
}

async function eventually(what: string, check: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await check())) {
    if (Date.now() > deadline) assert.fail(`not within 20 s: ${what}`);
    await sleep(100);
  }
}

let first: Capsule;
before(async () => {
  first = await start("a");
});
after(async () => {
  for (const name of started) await stopCapsule(name);
  rmSync(stateRoot, { recursive: true, force: true });
});

test("PID 1 is capsule-init, and containerd serves", async () => {
  assert.equal((await first.exec(["cat", "/proc/1/comm"])).trim(), "capsule-init");
  await eventually(
    "containerd answers",
    async () =>
      await first.exec(["ctr", "version"]).then(
        () => true,
        () => false,
      ),
  );
});

test("the capsule sees only itself: processes, links, devices", async () => {
  assert.ok(!(await first.exec(["ps", "-o", "comm"])).includes("node --test"));
  const links = (await first.exec(["ls", "/sys/class/net"])).trim().split("\n").sort();
  // On a slow machine capsuled has made its bridge by now.
  assert.deepEqual(
    links.filter((name) => name !== "capsule0"),
    ["eth0", "lo"],
  );
  const devices = (await first.exec(["ls", "/dev"])).split("\n");
  for (const forbidden of ["watchdog", "vda", "sda", "mem", "kmsg"]) assert.ok(!devices.includes(forbidden), forbidden);
});

test("limits can be set below the capsule's own cgroups", async () => {
  await first.exec([
    "sh",
    "-ec",
    "g=/sys/fs/cgroup/memory; [ -d $g ] || g=/sys/fs/cgroup; mkdir $g/t; ls $g/t/memory.*max* $g/t/memory.limit* 2>/dev/null | grep -q memory; rmdir $g/t",
  ]);
});

test("a second start of the same name is refused, a second capsule beside it is not", async () => {
  await assert.rejects(startCapsule({ name: first.name, stateDir: first.stateDir }), AlreadyRunningError);
  const second = await start("b");
  assert.notEqual(second.address, first.address);
  assert.notEqual(second.port, first.port);
  // Each reaches the other over the bridge.
  await second.exec(["ping", "-c", "1", "-W", "5", first.address]);
  await second.stop();
  assert.deepEqual(await leftovers(second.name, second.stateDir), []);
});

test("port 50000 of the capsule is reached on 127.0.0.1 of the host", async () => {
  // The certificate tells whose port it is.
  const { connect } = await import("node:tls");
  await eventually(
    "the capsule's own certificate comes through 127.0.0.1",
    async () =>
      await new Promise((resolve) => {
        const socket = connect({ host: "127.0.0.1", port: first.port, rejectUnauthorized: false });
        socket.setTimeout(1_000, () => socket.destroy());
        socket.on("secureConnect", () => {
          const own = new X509Certificate(readFileSync(join(first.perm, "tls/server.crt")));
          resolve(socket.getPeerX509Certificate()?.fingerprint256 === own.fingerprint256);
          socket.destroy();
        });
        socket.on("error", () => {});
        socket.on("close", () => resolve(false));
      }),
  );
});

test("state survives a power cut, and the name can be started again", async () => {
  const capsule = await start("c");
  await capsule.exec(["sh", "-c", "echo kept >/perm/witness"]);
  await capsule.kill();
  assert.deepEqual(await processesOf(capsule.name), []);
  assert.equal(await findCapsule(capsule.name), undefined);
  const again = await start("c");
  assert.equal(await readFile(join(again.perm, "witness"), "utf8"), "kept\n");
  assert.equal(again.address, capsule.address);
  await again.stop();
});

test("after a kill of everything, stop leaves nothing behind, and may be repeated", async () => {
  const capsule = await start("d");
  for (const pid of await processesOf(capsule.name)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // ended with the others
    }
  }
  await stopCapsule(capsule.name);
  assert.deepEqual(await leftovers(capsule.name, capsule.stateDir), []);
  assert.equal(await stopCapsule(capsule.name), false);
  assert.ok(existsSync(capsule.perm), "the state is kept");
});

test("names that no capsule can have are refused", async () => {
  for (const name of ["", "-a", "A", "a/b", "x".repeat(31)])
    await assert.rejects(startCapsule({ name, stateDir: stateRoot }), /is no name/);
});
