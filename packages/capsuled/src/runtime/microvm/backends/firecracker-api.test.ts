import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { runPaths } from "../layout.ts";
import { FirecrackerBackend } from "./firecracker.ts";
import { firecracker } from "./firecracker-api.ts";
import { FirecrackerStandIn } from "./firecracker-standin.test-support.ts";

let dir: string;
let standIn: FirecrackerStandIn;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "capsule-firecracker-"));
  standIn = await FirecrackerStandIn.start({ dir, state: "Running", memory: Buffer.alloc(0) });
});

afterEach(async () => {
  standIn.close();
  await rm(dir, { recursive: true, force: true });
});

test("a request is done, and its answer is empty", async () => {
  assert.equal(await firecracker(standIn.control, "PATCH", "/vm", { state: "Paused" }), undefined);
  assert.deepEqual(standIn.asked, ["PATCH /vm Paused"]);
});

test("what Firecracker says of a fault is said", async () => {
  await assert.rejects(firecracker(standIn.control, "PATCH", "/vm", { state: "Sleeping" }), {
    message: "Firecracker, PATCH /vm: state is none of Paused, Resumed",
  });
  await assert.rejects(
    firecracker(standIn.control, "PATCH", "/vm", { state: "Paused", soon: true }),
    /unknown field soon/,
  );
  await assert.rejects(firecracker(standIn.control, "PUT", "/vm", { state: "Paused" }), /Invalid request method/);
});

test("the power button is Ctrl+Alt+Del", async () => {
  const backend = new FirecrackerBackend(() => "kvm");
  await backend.pressPowerButton({ ...runPaths("one"), control: standIn.control });
  assert.deepEqual(standIn.asked, ["PUT /actions Running"]);
});

test("what Firecracker takes depends on what its machine does", async () => {
  const start = firecracker(standIn.control, "PUT", "/actions", { action_type: "InstanceStart" });
  await assert.rejects(start, /not supported after starting/);
  const files = { mem_file_path: "/run/memory", snapshot_path: "/run/state" };
  await assert.rejects(firecracker(standIn.control, "PUT", "/snapshot/create", files), /not paused/);
  standIn.state = "Not started";
  const button = firecracker(standIn.control, "PUT", "/actions", { action_type: "SendCtrlAltDel" });
  await assert.rejects(button, /not supported before starting/);
});

test("a monitor that is gone, or says something else, is told", async () => {
  await assert.rejects(firecracker(join(dir, "nobody"), "PATCH", "/vm", { state: "Paused" }), /ENOENT/);
  await writeFile(join(dir, "file"), "");
  await assert.rejects(firecracker(join(dir, "file"), "PATCH", "/vm", { state: "Paused" }), /ECONNREFUSED/);
  const says = async (answer: string): Promise<unknown> => {
    const server = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.once("data", () => socket.end(answer));
    }).listen(join(dir, "other"));
    try {
      return await firecracker(join(dir, "other"), "PATCH", "/vm", { state: "Paused" });
    } finally {
      server.close();
    }
  };
  await assert.rejects(says("HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops"), /PATCH \/vm: oops/);
  await assert.rejects(says("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"), /PATCH \/vm: status 503/);
  const endless = `HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n${"x".repeat(100_000)}`;
  await assert.rejects(says(endless), /more than 65536 bytes/);
  await assert.rejects(says(""), /socket hang up/);
});
