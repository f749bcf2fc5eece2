import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { afterEach, beforeEach, test } from "node:test";
import { FirecrackerStandIn } from "./firecracker-standin.test-support.ts";
import { restoreState, saveState } from "./firecracker-state.ts";

const MiB = 1024 ** 2;
const guest = randomBytes(3 * MiB);
const machine = { memoryBytes: guest.length, network: undefined };
/** Before the state of the devices. */
const headerBytes = "capsule firecracker state 1\n".length + 8;
let dir: string;
let standIns: FirecrackerStandIn[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "capsule-firecracker-"));
  standIns = [];
});

afterEach(async () => {
  for (const standIn of standIns) standIn.close();
  await rm(dir, { recursive: true, force: true });
});

async function start(state: "Not started" | "Running", memory = guest): Promise<FirecrackerStandIn> {
  for (const former of standIns) former.close();
  const standIn = await FirecrackerStandIn.start({ dir, state, memory, interfaces: ["eth0"] });
  standIns.push(standIn);
  return standIn;
}

async function save(standIn: FirecrackerStandIn, atRest: () => Promise<void>, to = new PassThrough()): Promise<Buffer> {
  const chunks: Buffer[] = [];
  to.on("data", (chunk: Buffer) => chunks.push(chunk));
  await saveState({ sockets: dir, control: standIn.control }, "/run", to, atRest, machine);
  return Buffer.concat(chunks);
}

async function restore(standIn: FirecrackerStandIn, state: Buffer, change: object = {}): Promise<void> {
  // In pieces that fit to nothing.
  const pieces = Array.from({ length: Math.ceil(state.length / 70_001) }, (_, i) =>
    state.subarray(i * 70_001, (i + 1) * 70_001),
  );
  const from = Readable.from(pieces);
  await restoreState({ sockets: dir, control: standIn.control }, "/run", from, { ...machine, ...change });
  assert(from.destroyed);
}

/** Nothing but the socket. */
async function assertCleared(): Promise<void> {
  assert.deepEqual(await readdir(dir), ["control"]);
}

test("a machine stands still while it is saved, and what was saved goes on elsewhere", async () => {
  const saved = await start("Running");
  let atRest = "";
  const state = await save(saved, async () => {
    atRest = saved.state;
  });
  assert.equal(atRest, "Paused");
  assert.deepEqual(saved.asked, ["PATCH /vm Paused", "PUT /snapshot/create Paused", "PATCH /vm Running"]);
  await assertCleared();
  const restored = await start("Not started", Buffer.alloc(0));
  await restore(restored, state, { network: { tap: "tap2", mac: "02:00:00:00:00:02" } });
  assert.equal(restored.state, "Running");
  assert(restored.memory.equals(guest));
  assert.deepEqual(restored.loaded, {
    snapshot_path: "/run/state",
    mem_backend: { backend_type: "File", backend_path: "/run/memory" },
    resume_vm: true,
    network_overrides: [{ iface_id: "eth0", host_dev_name: "tap2" }],
  });
  await assertCleared();
});

test("a machine goes on when Firecracker cannot save it", async () => {
  const standIn = await start("Running");
  standIn.refuse = (what) => (what === "PUT /snapshot/create" ? "No space left on device" : undefined);
  let wasAtRest = false;
  await assert.rejects(
    save(standIn, async () => {
      wasAtRest = true;
    }),
    /PUT \/snapshot\/create: No space left on device/,
  );
  assert.deepEqual([standIn.state, wasAtRest], ["Running", false]);
  await assertCleared();
});

test("a machine that could not go on, or was not paused, is told", async () => {
  const standIn = await start("Running");
  standIn.refuse = (what) => (what === "PATCH /vm" ? "not now" : undefined);
  await assert.rejects(
    save(standIn, async () => undefined),
    /PATCH \/vm: not now/,
  );
  let times = 0;
  standIn.refuse = (what) => (what === "PATCH /vm" && ++times === 2 ? "no more" : undefined);
  await assert.rejects(
    save(standIn, async () => undefined),
    /PATCH \/vm: no more/,
  );
  await assertCleared();
});

test("a link in the place of a file is not followed", async () => {
  const standIn = await start("Running");
  const victim = join(dir, "..", `${process.pid}-victim`);
  await writeFile(victim, "untouched");
  try {
    for (const name of ["state", "memory"]) await symlink(victim, join(dir, name));
    await save(standIn, async () => undefined);
    assert.equal(await readFile(victim, "utf8"), "untouched");
    await assertCleared();
  } finally {
    await rm(victim, { force: true });
  }
});

test("a monitor that writes another memory than its machine's is told", async () => {
  const standIn = await start("Running");
  await assert.rejects(
    save(standIn, async () => {
      await writeFile(join(dir, "memory"), "short");
    }),
    /a memory of 5 bytes/,
  );
  await assertCleared();
});

test("what is no whole state of such a machine is refused before Firecracker sees it", async () => {
  const state = await save(await start("Running"), async () => undefined);
  const standIn = await start("Not started");
  await assert.rejects(restore(standIn, Buffer.from("QEVM and so on".repeat(9))), /no state of a Firecracker machine/);
  await assert.rejects(restore(standIn, Buffer.alloc(0)), /not whole/);
  await assert.rejects(restore(standIn, state.subarray(0, -1)), /not whole/);
  await assert.rejects(restore(standIn, Buffer.concat([state, Buffer.from("x")])), /more memory/);
  await assert.rejects(restore(standIn, state, { memoryBytes: 2 * MiB }), /more memory/);
  await assert.rejects(restore(standIn, state, { memoryBytes: 4 * MiB }), /not whole/);
  const huge = Buffer.from(state);
  huge.writeBigUInt64BE(2n ** 40n, "capsule firecracker state 1\n".length);
  await assert.rejects(restore(standIn, huge), /none of a Firecracker machine/);
  assert.deepEqual(standIn.asked, []);
  await assertCleared();
});

test("Firecracker's words are told when it does not take a state", async () => {
  const state = await save(await start("Running"), async () => undefined);
  const standIn = await start("Running");
  await assert.rejects(restore(standIn, state), /\/snapshot\/load: The requested operation is not supported after/);
  await assertCleared();
  const empty = await start("Not started");
  const [magicAndSize, devices] = [state.subarray(0, headerBytes), state.subarray(headerBytes, -guest.length)];
  const other = Buffer.concat([magicAndSize, Buffer.alloc(devices.length, "?"), guest]);
  await assert.rejects(restore(empty, other), /\/snapshot\/load: Failed to restore from snapshot/);
  await assertCleared();
});
