/** Pulls from a real registry: open, with credentials, through a mirror, and one that is away. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeCertificate } from "../../packages/capsuled/src/self-signed.ts";
import { pushTo, type Registry, startRegistry } from "../images/registry.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let dir: string;
const running: Registry[] = [];

/** "anna" with the password "secret" (htpasswd -nbB). */
const htpasswd = "anna:$2b$05$7y.PfiZaTcIVJGPKUUGUA.ns6Q/yhNplTWP3/DYad5bghTLTvGuvW\n";

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-registry-"));
  const port = 20_000 + (process.pid % 20_000);
  const filling = await startRegistry({ dir, port });
  await pushTo(port, "busybox");
  await pushTo(port, "hello");
  filling.stop();
  capsule = await TestCapsule.start("registry", []);
  const namespaceOf = capsule.local.initPid;
  running.push(await startRegistry({ dir, port: 5001, namespaceOf }));
  running.push(await startRegistry({ dir, port: 5002, namespaceOf, htpasswd }));
});
after(async () => {
  for (const registry of running) registry.stop();
  await capsule?.stop();
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
});

test("a debug session takes an image that is pulled for it, and standard input comes to its command", async () => {
  const words = ["capsule", "debug", "--image", "127.0.0.1:5001/library/busybox:1", "--", "cat"];
  const images = async (): Promise<string> => await capsule.ctl(["image", "list"]);
  assert.doesNotMatch(await images(), /busybox/);
  const { code, stdout, stderr } = await capsule.try(words, "what was typed\n");
  assert.deepEqual([code, stdout], [0, "what was typed\n"], stderr);
  assert.match(await images(), /busybox/);
  await capsule.ctl(["image", "remove", "127.0.0.1:5001/library/busybox:1"]);
});

test("pull from an open registry, and a workload that pulls by itself", async () => {
  assert.match(await capsule.ctl(["image", "pull", "127.0.0.1:5001/library/hello:1"]), /hello:1 sha256:/);
  const manifest = `kind: Container\nname: puller\ncontainer: {image: "127.0.0.1:5001/library/busybox:1", command: [sleep, 1d], stopTimeout: 0s}\n`;
  assert.equal((await capsule.apply(manifest, "--wait=30s")).code, 0);
  assert.match(await capsule.ctl(["workload", "events", "puller"]), /Pulled/);
});

test("credentials: refused without, taken with; wrong ones say so", async () => {
  const reference = "127.0.0.1:5002/library/hello:1";
  const without = await capsule.try(["image", "pull", reference]);
  assert.equal(without.code, 4, without.stderr);
  assert.match(without.stderr, /registry set/);
  await capsule.ctl(["registry", "set", "127.0.0.1:5002", "--username", "anna", "--password-stdin"], "wrong");
  assert.equal((await capsule.try(["image", "pull", reference])).code, 4);
  await capsule.ctl(["registry", "set", "127.0.0.1:5002", "--username", "anna", "--password-stdin"], "secret");
  assert.match(await capsule.ctl(["image", "pull", reference]), /hello:1 sha256:/);
  const listed = await capsule.ctl(["registry", "list", "-o", "json"]);
  assert.doesNotMatch(listed, /secret/);
});

test("an authority of one's own: refused until it is known, and another one does not do", async () => {
  const names = [{ type: "ip", value: "127.0.0.1" }] as const;
  const tls = await makeCertificate("registry", names);
  running.push(await startRegistry({ dir, port: 5003, namespaceOf: capsule.local.initPid, tls }));
  const reference = "127.0.0.1:5003/library/hello:1";
  const [own, other] = [join(dir, "own.pem"), join(dir, "other.pem")];
  writeFileSync(own, tls.certificatePem);
  writeFileSync(other, (await makeCertificate("registry", names)).certificatePem);
  const unknown = await capsule.try(["image", "pull", reference]);
  assert.equal(unknown.code, 1, unknown.stderr);
  await capsule.ctl(["registry", "set", "127.0.0.1:5003", "--ca", other]);
  const wrong = await capsule.try(["image", "pull", reference]);
  assert.equal(wrong.code, 1, wrong.stderr);
  assert.match(wrong.stderr, /certificate/);
  await capsule.ctl(["registry", "set", "127.0.0.1:5003", "--ca", own]);
  assert.match(await capsule.ctl(["image", "pull", reference]), /hello:1 sha256:/);
});

test("a mirror serves what its registry cannot; a mirror that is away is passed over", async () => {
  await capsule.ctl([
    "registry",
    "set",
    "docker.io",
    "--mirror",
    "http://127.0.0.1:1",
    "--mirror",
    "http://127.0.0.1:5001",
  ]);
  assert.match(await capsule.ctl(["image", "pull", "busybox:1"]), /docker.io\/library\/busybox:1/);
  await capsule.ctl(["registry", "remove", "docker.io"]);
  assert.equal((await capsule.try(["registry", "remove", "docker.io"])).code, 3);
});

test("what is not there, and a registry that is away", async () => {
  const missing = await capsule.try(["image", "pull", "127.0.0.1:5001/library/none:1"]);
  assert.equal(missing.code, 3, missing.stderr);
  const away = await capsule.try(["image", "pull", "127.0.0.1:1/library/none:1"]);
  assert.equal(away.code, 1);
  assert.match(away.stderr, /refused/i);
});
