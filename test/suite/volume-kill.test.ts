/**
 * capsuled is killed again and again while volumes are created, grown, restored, imported and deleted: nothing that was
 * acknowledged is lost, nothing that was not is left. With ROUNDS=n, SEED=n.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "../support/random.ts";
import { askAgainMs, emulated, TestCapsule } from "../support/test-capsule.ts";
import { disksOf, isUnfinished, readWitness, snapshotsOf, volumesOf, writeWitness } from "../support/volumes.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? (emulated ? 3 : 24));
const random = new Random(seed);

let capsule: TestCapsule;
let file: string;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("vkill", ["busybox"]);
  file = join(capsule.dir, "export.zst");
  await capsule.ctl(["volume", "create", "origin", "--size", "64MiB"]);
  await writeWitness(capsule, "origin", "origin");
  await capsule.ctl(["volume", "snapshot", "origin", "s"]);
  await capsule.ctl(["volume", "export", "origin", file]);
});
after(async () => await capsule?.stop());

const read = (volume: string): Promise<string> => readWitness(capsule, volume);

/** What must be, from what was acknowledged. Undefined: it was not, and either may be. */
const wanted = new Map<string, { content: string | undefined; sizeMib: number | undefined } | "deleted" | undefined>();

/** One operation under a kill; tells what is certain afterwards. */
const operations: Record<string, (name: string) => Promise<void>> = {
  create: async (name) => {
    wanted.set(name, undefined);
    const { code } = await capsule.try(["volume", "create", name, "--size", "64MiB", "--no-wait"]);
    if (code === 0) wanted.set(name, { content: undefined, sizeMib: 64 });
  },
  restoreAs: async (name) => {
    wanted.set(name, undefined);
    const { code } = await capsule.try(["volume", "restore", "origin", "s", "--as", name]);
    if (code === 0) wanted.set(name, { content: "origin", sizeMib: 64 });
  },
  import: async (name) => {
    wanted.set(name, undefined);
    // The connection is lost with capsuled, and the client goes on by itself.
    const { code } = await capsule.try(["volume", "import", name, file]);
    if (code === 0) wanted.set(name, { content: "origin", sizeMib: 64 });
  },
  resize: async () => {
    const [name, state] = pick();
    if (name === undefined || state === undefined) return;
    const sizeMib = (state.sizeMib ?? 64) + 4 * (1 + random.below(8));
    wanted.set(name, { ...state, sizeMib: undefined });
    const { code } = await capsule.try(["volume", "resize", name, `${sizeMib}MiB`, "--no-wait"]);
    if (code === 0) wanted.set(name, { ...state, sizeMib });
  },
  restore: async () => {
    const { code, stderr } = await capsule.try(["volume", "restore", "origin", "s"]);
    // Done, or the connection was lost under it. Nothing uses the volume: it is never refused.
    assert.ok(code === 0 || code === 1, `${code}: ${stderr}`);
  },
  delete: async () => {
    const [name, state] = pick();
    if (name === undefined || state === undefined) return;
    wanted.set(name, undefined);
    const { code } = await capsule.try(["volume", "delete", name, "--no-wait"]);
    if (code === 0) wanted.set(name, "deleted");
  },
};

/** A volume of which everything is certain. */
function pick(): [string, { content: string | undefined; sizeMib: number | undefined }] | [undefined, undefined] {
  const certain = [...wanted].flatMap(([name, state]) =>
    typeof state === "object" ? [[name, state] as [string, typeof state]] : [],
  );
  return certain.length === 0 ? [undefined, undefined] : random.pick(certain);
}

test(`${rounds} kills during volume operations`, { timeout: 900_000 }, async () => {
  for (let round = 0; round < rounds; round++) {
    const operation = random.pick(Object.keys(operations));
    const running = operations[operation]?.(`v${round}`);
    const killed = sleep(100 + random.below(700))
      .then(() => capsule.killCapsuled())
      .then(() => capsule.startCapsuled());
    await Promise.all([running, killed]);
    await capsule.untilServing();
  }
  await settled();
  const found = await volumesOf(capsule);
  for (const [name, state] of wanted) {
    if (state === "deleted") assert.ok(!found.has(name), `${name} was deleted`);
    if (typeof state !== "object") continue;
    const volume = found.get(name);
    assert.ok(volume !== undefined, `${name} was acknowledged and is gone`);
    if (state.sizeMib !== undefined) assert.equal(Number(volume.spec.sizeBytes), state.sizeMib * 1024 ** 2, name);
    if (state.content !== undefined) assert.equal(await read(name), state.content, name);
  }
  assert.equal(await read("origin"), "origin");
  for (const name of found.keys()) assert.match(await capsule.ctl(["volume", "check", name]), /clean/, name);
  // A disk for each volume and snapshot, and none besides.
  let snapshots = 0;
  for (const name of found.keys()) snapshots += (await snapshotsOf(capsule, name)).length;
  const deadline = Date.now() + 90_000;
  for (;;) {
    const left = await disksOf(capsule);
    if (left.length === found.size + snapshots && !left.some(isUnfinished)) break;
    assert.ok(Date.now() < deadline, `${left.join("\n")}\nfor ${[...found.keys()].join()} and ${snapshots} snapshots`);
    await sleep(1_000);
  }
  assert.equal((await capsule.host.exec(["sh", "-c", "grep /run/capsule/volumes /proc/mounts || true"])).trim(), "");
});

/** Every volume is what it is to be, or is gone. */
async function settled(): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const open = [...(await volumesOf(capsule)).values()].filter(({ status }) => status.phase !== "VOLUME_PHASE_READY");
    if (open.length === 0) return;
    assert.ok(Date.now() < deadline, open.map(({ spec, status }) => `${spec.name}: ${status.message}`).join("\n"));
    await sleep(askAgainMs);
  }
}
