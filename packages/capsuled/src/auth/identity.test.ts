import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { Role } from "@capsule/api";
import { pino } from "pino";
import { Store } from "../store/store.ts";
import { loadIdentity } from "./identity.ts";
import { resetKeysIfAsked } from "./reset.ts";

const log = pino({ level: "silent" });
let dir: string;
let store: Store;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-identity-"));
  store = new Store(join(dir, "store.db"));
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true, force: true });
});

test("an identity is made once", async () => {
  const made = await loadIdentity(store, dir);
  assert.match(made.capsuleId, /^[a-z2-7]{26}$/);
  assert.deepEqual(await loadIdentity(store, dir), made);
  assert.equal(statSync(join(dir, "server.key")).mode & 0o777, 0o600);
});

test("a lost or damaged identity is never replaced in silence", async () => {
  const made = await loadIdentity(store, dir);
  const damages: [string, () => void][] = [
    ["lost", () => rmSync(join(dir, "server.crt"))],
    ["cut", () => writeFileSync(join(dir, "server.crt"), made.certificatePem.slice(0, 200))],
    ["key lost", () => rmSync(join(dir, "server.key"))],
    ["key cut", () => writeFileSync(join(dir, "server.key"), "")],
  ];
  for (const [what, damage] of damages) {
    writeFileSync(join(dir, "server.key"), made.keyPem);
    writeFileSync(join(dir, "server.crt"), made.certificatePem);
    damage();
    await assert.rejects(loadIdentity(store, dir), /damaged or missing. Restore/, what);
  }
});

test("a power cut between key and certificate is a beginning", async () => {
  writeFileSync(join(dir, "server.key"), "half a key");
  assert.match((await loadIdentity(store, dir)).fingerprint, /^[0-9a-f]{64}$/);
});

test("the reset file removes every key, once and only when it is fresh", async () => {
  const path = join(dir, "reset-keys");
  const now = new Date();
  const enrol = (): void => {
    store.keys.add({
      id: "a".repeat(43),
      name: "one",
      role: Role.ADMIN,
      publicKey: new Uint8Array(32),
      createdAt: now,
    });
  };
  enrol();
  await resetKeysIfAsked(store, path, now, log);
  assert.equal(store.keys.list().length, 1, "nobody asked");
  writeFileSync(path, "");
  utimesSync(path, now, new Date(now.getTime() - 2 * 3_600_000));
  await resetKeysIfAsked(store, path, now, log);
  assert.equal(store.keys.list().length, 1, "too old");
  writeFileSync(path, "");
  await resetKeysIfAsked(store, path, now, log);
  assert.equal(store.keys.list().length, 0);
  assert.equal(store.events.newest(1)[0]?.reason, "KeysReset");
  enrol();
  await resetKeysIfAsked(store, path, now, log);
  assert.equal(store.keys.list().length, 1, "the file is gone");
});
