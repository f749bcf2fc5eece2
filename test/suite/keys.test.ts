/** Keys, roles and contexts, as two people at two machines see them. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { patience, type Result, TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let adopt: string[];
before(async () => {
  capsule = await TestCapsule.start("keys", ["bare"]);
  adopt = ["adopt", `127.0.0.1:${capsule.host.port}`, "--name", "test", "--fingerprint", capsule.fingerprint];
});
after(async () => await capsule?.stop());

const asBen = (args: string[], timeoutMs = 20_000 * patience): Promise<Result> =>
  capsule.try(args, "", timeoutMs, join(capsule.dir, "ben"));

test("a stranger cannot adopt, nor can a pinned capsule become another one", async () => {
  const refused = await asBen(adopt);
  assert.equal(refused.code, 4);
  assert.match(refused.stderr, /not enrolled/);
  const wrong = await capsule.try([...adopt.slice(0, -1), "0".repeat(64)]);
  assert.equal(wrong.code, 4);
  assert.match(wrong.stderr, /is not the capsule/);
  const unasked = await asBen(["adopt", `127.0.0.1:${capsule.host.port}`]);
  assert.equal(unasked.code, 4);
  assert.match(unasked.stderr, /--fingerprint SHA256 or --yes/);
  assert.equal(statSync(join(capsule.configHome, "capsule/key.pem")).mode & 0o777, 0o600);
  assert.equal(statSync(join(capsule.configHome, "capsule")).mode & 0o777, 0o700);
});

test("a viewer reads and changes nothing; the audit log has who tried what", async () => {
  const key = (await asBen(["key", "show"])).stdout.trim();
  await capsule.ctl(["key", "add", "ben", key, "--role", "viewer"]);
  assert.equal((await asBen(adopt)).code, 0);
  assert.equal((await asBen(["workload", "list"])).code, 0);
  const denied = await asBen(["workload", "delete", "web"]);
  assert.equal(denied.code, 4);
  assert.match(denied.stderr, /role/);
  assert.equal((await asBen(["key", "remove", "ben"])).code, 4);
  const audit = await capsule.ctl(["audit"]);
  assert.match(audit, /ben +WorkloadService\/DeleteWorkloads/);
  assert.match(audit, /IdentityService\/AddKey +ben +ok/);
});

test("removing a key ends its open calls; the last admin stays", async () => {
  const watching = asBen(["workload", "list", "--watch"], 30_000);
  await sleep(1_000);
  const removed = performance.now();
  await capsule.ctl(["key", "remove", "ben"]);
  const { code } = await watching;
  assert.equal(code, 4);
  assert.ok(performance.now() - removed < 10_000);
  assert.equal((await asBen(["workload", "list"])).code, 4);
  const [admin = ""] = (await capsule.ctl(["key", "list"])).split("\n")[1]?.split(/\s+/) ?? [];
  const last = await capsule.try(["key", "remove", admin]);
  assert.equal(last.code, 1);
  assert.match(last.stderr, /last key of an administrator/);
});

test("completion knows commands, options and names", async () => {
  await capsule.apply(`kind: Container\nname: web\ncontainer: {image: "bare:1", stopTimeout: 0s}\n`, "--wait=20s");
  const words = async (...typed: string[]): Promise<string[]> =>
    (await capsule.ctl(["__complete", "--", ...typed])).trim().split("\n");
  assert.deepEqual(await words("workl"), ["workload"]);
  assert.ok((await words("workload", "")).includes("restart"));
  assert.deepEqual(await words("workload", "logs", "w"), ["web"]);
  assert.ok((await words("workload", "logs", "--")).includes("--follow"));
  for (const shell of ["bash", "zsh", "fish"]) assert.match(await capsule.ctl(["completion", shell]), /__complete/);
});

test("usage errors end with 2, what is not there with 3", async () => {
  assert.equal((await capsule.try(["workload", "fly"])).code, 2);
  assert.equal((await capsule.try(["workload", "list", "-o", "xml"])).code, 2);
  assert.equal((await capsule.try(["workload", "get", "nobody"])).code, 3);
  assert.equal((await capsule.try(["--capsule", "nowhere", "workload", "list"])).code, 3);
});

test("a fresh file at boot removes all keys; the capsule's own events say so", async () => {
  assert.doesNotMatch(await capsule.ctl(["capsule", "events"]), /KeysReset/);
  await capsule.host.exec(["sh", "-c", "touch /perm/capsule/reset-keys; sync"]);
  await capsule.host.cutPower();
  await capsule.host.startAgain();
  await capsule.untilServing();
  assert.equal((await capsule.try(["workload", "list"])).code, 4);
  await capsule.ctl(adopt);
  assert.match(await capsule.ctl(["capsule", "events"]), /capsule +Warning +KeysReset +[1-9] keys? were removed/);
  assert.match(await capsule.ctl(["capsule", "events", "--since", "1h", "-n", "1"]), /KeysReset/);
  assert.doesNotMatch(await capsule.ctl(["capsule", "events", "--since", "2100-01-01T00:00:00Z"]), /KeysReset/);
  // What happened to workloads is not its own.
  assert.match(await capsule.ctl(["workload", "events"]), /workload\/web/);
  assert.doesNotMatch(await capsule.ctl(["capsule", "events"]), /workload\//);
  const followed = await capsule.try(["capsule", "events", "-f"], "", 5_000 * patience);
  assert.match(followed.stdout, /^[-0-9T:.Z]+ capsule KeysReset: /m);
});
