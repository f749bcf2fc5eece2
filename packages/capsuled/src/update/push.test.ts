/** Bundles, good and bad, to a slot of a disk in files. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { memberNames } from "@capsule/api/update-bundle.ts";
import { CapsuleError } from "../errors.ts";
import { aBundle, type Bundle, inChunks, MiB, TestDisk } from "./slot-disk.test-support.ts";
import type { PushStart, Updates } from "./updates.ts";

let disk: TestDisk;
let updates: Updates;
beforeEach(async () => {
  disk = new TestDisk();
  updates = await disk.boot();
});
afterEach(async () => {
  await updates.stop();
  disk.remove();
});

const never = new AbortController().signal;
function startOf({ head, bytes }: Bundle, changes: Partial<PushStart> = {}): PushStart {
  const defaults = { offset: 0, allowDowngrade: false, confirmWithinMs: 900_000, autoConfirmMs: undefined };
  return { head, sizeBytes: bytes.length, ...defaults, ...changes };
}
const push = async (bundle: Bundle, changes: Partial<PushStart> = {}, bytes = bundle.bytes): Promise<unknown> =>
  await updates.push(startOf(bundle, changes), inChunks(bytes), never);
const withReason = (reason: string) => (error: unknown) => {
  assert.ok(error instanceof CapsuleError, String(error));
  assert.equal(error.reason, reason, error.message);
  return true;
};

test("a good bundle is in the slot byte by byte, zeros behind what the boot loader reads, and is tried next", async () => {
  const active = disk.everythingOf("a");
  const bundle = aBundle();
  await push(bundle);
  for (const name of memberNames) {
    const found = disk.contentOf("b", name);
    assert.ok(found.subarray(0, bundle.contents[name].length).equals(bundle.contents[name]), name);
    if (name !== "root.squashfs") assert.ok(found.subarray(bundle.contents[name].length).every((byte) => byte === 0));
  }
  assert.equal(disk.everythingOf("a"), active, "the slot that runs is as it was");
  const { choice, state, push: under, pending } = await updates.status();
  assert.deepEqual(choice, { confirmed: "a", trying: "b", tries: 1 });
  assert.deepEqual(state.slots, { a: { version: "1.0.0", epoch: 4 }, b: { version: "2.0.0", epoch: 5 } });
  assert.equal(under, undefined);
  assert.equal(pending?.version, "2.0.0");
});

describe("refused before anything is written, with the one reason:", () => {
  const stranger = generateKeyPairSync("ed25519").privateKey;
  const good = aBundle();
  const other = aBundle();
  const unsigned = { ...good, head: { ...good.head, signature: new Uint8Array(0) } };
  const swapped = { ...good, head: { ...good.head, signature: other.head.signature } };
  const cases: readonly [string, string, Bundle, Partial<PushStart>?][] = [
    ["truncated", "BUNDLE_TRUNCATED", good, { sizeBytes: good.bytes.length - 1 }],
    ["with something behind its end", "BUNDLE_MEMBER_EXTRA", good, { sizeBytes: good.bytes.length + 512 }],
    ["unsigned", "BUNDLE_UNSIGNED", unsigned],
    ["signed by another key", "BUNDLE_UNTRUSTED", aBundle({}, {}, stranger)],
    ["with the signature of another one", "BUNDLE_UNTRUSTED", swapped],
    ["of an older epoch", "OLDER_EPOCH", aBundle({ epoch: 3 })],
    ["for another architecture", "OTHER_ARCHITECTURE", aBundle({ architecture: "arm64" })],
    ["larger than the slot", "TOO_LARGE", aBundle({}, { "root.squashfs": 6 * MiB + 1 })],
    ["with a kernel larger than its place", "TOO_LARGE", aBundle({}, { vmlinuz: 2 * MiB + 1 })],
    ["without a member", "BUNDLE_MEMBER_MISSING", aBundle({ files: good.manifest.files.slice(0, 2) })],
    [
      "with a member too many",
      "BUNDLE_MEMBER_EXTRA",
      aBundle({ files: [...good.manifest.files, ...good.manifest.files.slice(0, 1)] }),
    ],
  ];
  for (const [title, reason, bundle, changes] of cases)
    test(title, async () => {
      const before = [disk.everythingOf("a"), disk.everythingOf("b")];
      const files = readFileSync(join(disk.updateDir, "state.json"), "utf8");
      await assert.rejects(push(bundle, changes), withReason(reason));
      assert.deepEqual([disk.everythingOf("a"), disk.everythingOf("b")], before);
      assert.equal(readFileSync(join(disk.updateDir, "state.json"), "utf8"), files);
    });
});

test("an older epoch is taken when it is asked for, and the floor stays", async () => {
  await push(aBundle({ epoch: 1, version: "0.9.0" }), { allowDowngrade: true });
  assert.equal((await updates.status()).pending?.version, "0.9.0");
  assert.equal((await updates.status()).state.epochFloor, 4);
});

test("other bytes than were signed leave a slot that is never started, and the one that runs as it was", async () => {
  const active = disk.everythingOf("a");
  const bundle = aBundle();
  const changed = Buffer.from(bundle.bytes);
  changed[Math.floor(changed.length / 2)] = (changed[Math.floor(changed.length / 2)] ?? 0) ^ 1;
  await assert.rejects(push(bundle, {}, changed), withReason("BUNDLE_DAMAGED"));
  const { choice, state, push: under } = await updates.status();
  assert.deepEqual(choice, { confirmed: "a", trying: undefined, tries: 0 });
  assert.equal(state.slots.b, undefined);
  assert.equal(under, undefined, "nothing of it is gone on with");
  assert.equal(disk.everythingOf("a"), active);
  await assert.rejects(updates.rollback(), withReason("NO_OTHER_VERSION"));
});

test("a member of another name in the middle is refused where it begins", async () => {
  const bundle = aBundle();
  const at = bundle.bytes.indexOf("root.squashfs", 1024 * 1024);
  const changed = Buffer.from(bundle.bytes);
  changed.write("evil.squashfs", at);
  await assert.rejects(push(bundle, {}, changed), withReason("BUNDLE_MEMBER_EXTRA"));
  assert.ok(disk.contentOf("b", "root.squashfs").equals(Buffer.alloc(6 * MiB, "b")), "not a byte of it was written");
});

test("a push that was broken anywhere goes on, also in another capsuled, and is whole then", async () => {
  const bundle = aBundle();
  // In the head, in each member, in the padding behind one, in the last blocks.
  const cuts = [700, 3_000, 400_000, 703_000, 1_500_000, 2_300_000, bundle.bytes.length - 700, bundle.bytes.length - 1];
  for (const [round, cut] of cuts.entries()) {
    const { push: under } = await updates.status();
    const offset = under?.receivedBytes ?? 0;
    const broken = (async function* () {
      yield* inChunks(bundle.bytes.subarray(offset, cut), 65_537);
      throw new Error("the connection was lost");
    })();
    await assert.rejects(updates.push(startOf(bundle, { offset }), broken, never), /connection was lost/);
    const received = (await updates.status()).push?.receivedBytes ?? 0;
    assert.ok(received <= cut && received > cut - 4_096, `${received} of ${cut} are kept`);
    assert.deepEqual((await updates.status()).choice.trying, undefined);
    if (round % 2 === 0) continue;
    await updates.stop();
    updates = await disk.start("a", false);
  }
  const offset = (await updates.status()).push?.receivedBytes ?? 0;
  await push(bundle, { offset }, bundle.bytes.subarray(offset));
  for (const name of memberNames)
    assert.ok(disk.contentOf("b", name).subarray(0, bundle.contents[name].length).equals(bundle.contents[name]), name);
});

test("what is sent twice is passed over, and what begins too late is told", async () => {
  const bundle = aBundle();
  await assert.rejects(push(bundle, {}, bundle.bytes.subarray(0, 1_000_000)), withReason("PUSH_CUT_OFF"));
  await assert.rejects(push(bundle, { offset: 1_000_001 }), withReason("OFFSET_AHEAD"));
  await push(bundle, { offset: 300_000 }, bundle.bytes.subarray(300_000));
  assert.equal((await updates.status()).pending?.version, "2.0.0");
});

test("what was kept of a push and is no more on the disk is found by its digest", async () => {
  const bundle = aBundle();
  await assert.rejects(push(bundle, {}, bundle.bytes.subarray(0, 2_500_000)), withReason("PUSH_CUT_OFF"));
  writeFileSync(join(disk.dir, "b"), Buffer.alloc(6 * MiB, 1));
  await assert.rejects(
    push(bundle, { offset: 2_500_000 }, bundle.bytes.subarray(2_500_000)),
    withReason("BUNDLE_DAMAGED"),
  );
});

test("one push at a time: the same bundle takes over, another one is refused", async () => {
  const bundle = aBundle();
  const begun = Promise.withResolvers<void>();
  const hanging = (async function* () {
    yield bundle.bytes.subarray(0, 1_200_000);
    begun.resolve();
    await new Promise(() => undefined);
  })();
  const first = updates.push(startOf(bundle), hanging, never);
  first.catch(() => undefined);
  await begun.promise;
  await assert.rejects(push(aBundle()), withReason("PUSH_UNDER_WAY"));
  await assert.rejects(updates.rollback(), withReason("PUSH_UNDER_WAY"));
  const offset = (await updates.status()).push?.receivedBytes ?? 0;
  await push(bundle, { offset }, bundle.bytes.subarray(offset));
  await assert.rejects(first, /another call/);
  assert.equal((await updates.status()).pending?.version, "2.0.0");
});

test("a new push takes back what was staged before its first byte", async () => {
  await push(aBundle());
  const next = aBundle({ version: "3.0.0" });
  await assert.rejects(push(next, {}, next.bytes.subarray(0, 10_000)), withReason("PUSH_CUT_OFF"));
  const { choice, state } = await updates.status();
  assert.deepEqual(choice, { confirmed: "a", trying: undefined, tries: 0 });
  assert.deepEqual([state.pending, state.slots.b], [undefined, undefined]);
});
