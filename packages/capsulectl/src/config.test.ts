import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Context, configDir, ensureKey, parseHost, readConfig, readKey, updateConfig } from "./config.ts";
import { CliError, exitCode } from "./errors.ts";

const outer = process.env["XDG_CONFIG_HOME"];
let home: string;
before(() => {
  home = mkdtempSync(join(tmpdir(), "capsule-config-"));
  process.env["XDG_CONFIG_HOME"] = home;
});
after(() => {
  if (outer === undefined) delete process.env["XDG_CONFIG_HOME"];
  else process.env["XDG_CONFIG_HOME"] = outer;
  rmSync(home, { recursive: true, force: true });
});

const context = (host: string): Context => ({ host, capsuleId: "x", fingerprint: "f" });

test("changes at once lose nothing, and leave only the file", async () => {
  assert.deepEqual(await readConfig(), { current: undefined, contexts: {} });
  const names = Array.from({ length: 20 }, (_, i) => `c${i}`);
  const add = (name: string) =>
    updateConfig(({ contexts }) => ({ current: name, contexts: { ...contexts, [name]: context(name) } }));
  await Promise.all(names.map(add));
  assert.deepEqual(Object.keys((await readConfig()).contexts).sort(), names.sort());
  assert.deepEqual(readdirSync(configDir()), ["config.yaml"]);
  assert.equal(statSync(join(configDir(), "config.yaml")).mode & 0o777, 0o600);
});

test("the lock of a program that died is taken over; a change that fails gives it back", async () => {
  writeFileSync(join(configDir(), "config.yaml.lock"), "999999999");
  await assert.rejects(
    updateConfig(() => {
      throw new CliError("no");
    }),
    /no/,
  );
  await updateConfig((config) => config);
  assert.deepEqual(readdirSync(configDir()), ["config.yaml"]);
});

test("YAML by hand is read, damage is named", async () => {
  const path = join(configDir(), "config.yaml");
  writeFileSync(path, "current: a\ncontexts:\n  a: {host: 'h:1', capsuleId: i, fingerprint: f}\n");
  assert.equal((await readConfig()).contexts["a"]?.host, "h:1");
  writeFileSync(path, "{ nonsense");
  await assert.rejects(readConfig(), /config\.yaml is damaged/);
  writeFileSync(path, "contexts: {a: {host: h}}\n");
  await assert.rejects(readConfig(), /"a" lacks/);
});

test("a key is made once, and refused when others can read it", async () => {
  assert.equal(readKey(), undefined);
  const made = await ensureKey();
  assert.equal((await ensureKey()).keyPem, made.keyPem);
  chmodSync(join(configDir(), "key.pem"), 0o644);
  assert.throws(readKey, (error) => error instanceof CliError && error.exitCode === exitCode.refused);
  chmodSync(join(configDir(), "key.pem"), 0o600);
  writeFileSync(join(configDir(), "key.pem"), "damage");
  assert.throws(readKey, /is damaged/);
});

test("hosts in every form", () => {
  assert.equal(parseHost("box"), "box:50000");
  assert.equal(parseHost("10.0.0.1:7"), "10.0.0.1:7");
  assert.equal(parseHost("[::1]"), "[::1]:50000");
  assert.equal(parseHost("[fe80::1%eth0.2]:7"), "[fe80::1%eth0.2]:7");
  for (const text of ["", "[fe80::1%]", "[fe80::1%a/b]", "::1", "a:0", "a:65536", "a/b", "u@h", "a b"])
    assert.throws(() => parseHost(text), CliError);
});
