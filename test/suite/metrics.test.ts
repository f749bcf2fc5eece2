/** A capsule's metrics: valid, and to be scraped by way of capsulectl. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { repositoryRoot } from "../../image/paths.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("metrics", []);
  await capsule.ctl(["volume", "create", "data", "--size", "64MiB"]);
});
after(async () => await capsule?.stop());

test("tell of the machine, its pool and its volumes", async () => {
  const text = await capsule.ctl(["capsule", "metrics"]);
  const samples = new Map(
    text
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
  assert.ok(
    [...samples.values()].every((value) => Number.isFinite(value)),
    text,
  );
  assert.ok((samples.get("capsule_uptime_seconds") ?? 0) > 0);
  assert.ok((samples.get("capsule_capsuled_resident_bytes") ?? 0) > 2 ** 20);
  assert.ok((samples.get('capsule_pool_size_bytes{pool="default"}') ?? 0) > 2 ** 20);
  assert.equal(samples.get('capsule_volume_size_bytes{volume="data",pool="default"}'), 64 * 1024 ** 2);
  assert.equal(samples.get('capsule_volumes{phase="READY"}'), 1);
  assert.equal(samples.get('capsule_pool_level_percent{pool="default"}'), 0);
});

test("are served on loopback, and nowhere else; a capsule that is gone is a failed scrape with the reason", async () => {
  assert.equal((await capsule.try(["capsule", "metrics", "--listen", "0.0.0.0:0"])).code, 2);
  assert.equal((await capsule.try(["capsule", "metrics", "--listen", "example.org:9101"])).code, 2);
  const child = spawn(join(repositoryRoot, "capsulectl"), ["capsule", "metrics", "--listen", "127.0.0.1:0"], {
    env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
    stdio: ["ignore", "ignore", "pipe"],
  });
  try {
    const [line] = (await once(createInterface(child.stderr), "line")) as [string];
    const url = line.trim();
    assert.match(url, /^http:\/\/127\.0\.0\.1:[0-9]+\/metrics$/);
    const scraped = await fetch(url);
    assert.equal(scraped.status, 200);
    assert.match(scraped.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    assert.match(await scraped.text(), /^capsule_pool_up\{.*\} 1$/m);
    assert.equal((await fetch(new URL("/other", url))).status, 404);
    assert.equal((await fetch(url, { method: "POST" })).status, 405);
    await capsule.host.cutPower();
    const failed = await fetch(url);
    assert.equal(failed.status, 502);
    assert.match(await failed.text(), /cannot be reached|was lost|refused/);
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
});
