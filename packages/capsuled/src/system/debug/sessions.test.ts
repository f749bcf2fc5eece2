import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { pino } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { Observed, RuntimeDriver } from "../../runtime/driver.ts";
import type { ImageStore } from "../../runtime/images.ts";
import type { Instance } from "../../runtime/instance.ts";
import { shellOf } from "./instance.ts";
import { DebugSessions } from "./sessions.ts";

let dir: string;
/** What runs, by uid. */
let running: Map<string, Instance>;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-debug-"));
  running = new Map();
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Whether there is room on the disk only once the reserve is gone. */
let isFull = false;

const driver = {
  start: async (instance: Instance) => {
    if (isFull && existsSync(join(dir, "reserve")))
      throw new CapsuleError("exhausted", "full", { reason: "DISK_FULL" });
    running.set(instance.uid, instance);
  },
  remove: async (uid: string) => void running.delete(uid),
  observe: async (uid: string) => {
    const state = running.has(uid) ? "running" : "none";
    return { uid, task: { state } } as Observed;
  },
} as unknown as RuntimeDriver;
const images = {
  normalize: (reference: string) => `docker.io/library/${reference}`,
  find: async (reference: string) => (reference.endsWith("/known:1") ? { digest: "sha256:1" } : undefined),
} as unknown as ImageStore;

function open(): DebugSessions {
  return new DebugSessions({
    driver,
    images,
    log: pino({ level: "silent" }),
    stateDir: join(dir, "debug"),
    reserveFile: join(dir, "reserve"),
    toolsDir: dir,
  });
}

async function started(): Promise<DebugSessions> {
  const sessions = open();
  await sessions.start();
  return sessions;
}

/** Uid of the container that a session has. */
async function visit(sessions: DebugSessions, keep: boolean, image = ""): Promise<string> {
  let seen = "";
  const work = async function* (uid: string): AsyncGenerator<undefined> {
    assert.ok(running.has(uid) && sessions.has(uid));
    seen = uid;
    yield undefined;
  };
  for await (const _ of sessions.run({ image, keep }, work)) assert.equal(running.size > 0, true);
  return seen;
}

const isKind = (kind: string, reason: string) => (error: unknown) =>
  error instanceof CapsuleError && error.kind === kind && error.reason === reason;

test("a session has a container with the tools and all rights, which is gone with it", async () => {
  const sessions = await started();
  const work = async function* (uid: string): AsyncGenerator<Instance | undefined> {
    yield running.get(uid);
  };
  for await (const instance of sessions.run({ image: "", keep: false }, work)) {
    assert.equal(instance?.rootDir, dir);
    assert.equal(instance.network, "host");
    assert.deepEqual(
      [instance.container.privileged, instance.container.sharesMachine, instance.container.readOnlyRoot],
      [true, true, true],
    );
  }
  assert.equal(running.size, 0);
  assert.deepEqual(readdirSync(join(dir, "debug")), []);
  assert.deepEqual([shellOf(""), shellOf("x")], [["/usr/bin/bash"], ["/bin/sh"]]);
});

test("it is gone too when the work in it fails, or nobody reads on", async () => {
  const sessions = await started();
  const failing = async function* (): AsyncGenerator<undefined> {
    yield undefined;
    throw new Error("gone");
  };
  await assert.rejects(async () => {
    for await (const _ of sessions.run({ image: "", keep: false }, failing)) assert.equal(running.size, 1);
  }, /gone/);
  assert.equal(running.size, 0);
  for await (const _ of sessions.run({ image: "", keep: false }, failing)) break;
  assert.equal(running.size, 0);
});

test("a full disk has room for a session, once", async () => {
  const sessions = await started();
  isFull = true;
  try {
    await visit(sessions, false);
    assert.equal(running.size, 0);
  } finally {
    isFull = false;
  }
  // There is room again: it is kept for the next time.
  assert.equal(statSync(join(dir, "reserve")).size, 8 * 1024 ** 2);
});

test("an image must be on the capsule", async () => {
  const sessions = await started();
  await assert.rejects(visit(sessions, false, "unknown:1"), isKind("notFound", "NO_IMAGE"));
  const uid = await visit(sessions, true, "known:1");
  assert.deepEqual(running.get(uid)?.image, { reference: "docker.io/library/known:1", digest: "sha256:1" });
  assert.equal(running.get(uid)?.rootDir, undefined);
  assert.equal(sessions.kept, "docker.io/library/known:1");
});

test("one is kept, for sessions of the same image, until it is ended", async () => {
  const sessions = await started();
  const first = await visit(sessions, true);
  assert.equal(await visit(sessions, true), first);
  assert.notEqual(await visit(sessions, false), first);
  await assert.rejects(visit(sessions, true, "known:1"), isKind("conflict", "OTHER_KEPT"));
  // Two that come at once have one.
  assert.deepEqual([...running.keys()], [first]);
  assert.equal(await sessions.end(), true);
  assert.equal(await sessions.end(), false);
  assert.equal(running.size, 0);
  assert.equal(sessions.kept, undefined);
  const [one, other] = await Promise.all([visit(sessions, true), visit(sessions, true)]);
  assert.equal(one, other);
});

test("the next capsuled has what was kept, and nothing else of the one before", async () => {
  const before = await started();
  const kept = await visit(before, true);
  writeFileSync(join(dir, "debug/stray"), "");
  const after = await started();
  assert.ok(after.has(kept));
  assert.deepEqual(readdirSync(join(dir, "debug")).sort(), ["kept.json", kept].sort());
  assert.equal(await visit(after, true), kept);
  await after.stop({ goingDown: false });
  assert.ok(running.has(kept));
  await after.stop({ goingDown: true });
  assert.equal(running.size, 0);
});

test("what is kept and does not run any more is made anew; a record that is not whole is none", async () => {
  const sessions = await started();
  const first = await visit(sessions, true);
  running.clear();
  assert.notEqual(await visit(sessions, true), first);
  assert.ok(!sessions.has(first));
  writeFileSync(join(dir, "debug/kept.json"), '{"uid":');
  const after = await started();
  assert.equal(after.kept, undefined);
  assert.deepEqual(readdirSync(join(dir, "debug")), []);
});
