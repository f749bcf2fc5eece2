import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, it } from "node:test";
import type { Store } from "../../store/store.ts";
import { collectPart } from "../part.ts";
import { mark } from "../patterns.ts";
import { workloadParts } from "./workloads.ts";

const workloadsDir = mkdtempSync(join(tmpdir(), "capsule-support-workloads-"));
after(() => rmSync(workloadsDir, { recursive: true }));

const workloads = [
  { name: "box", uid: "wbox", spec: { kind: { case: "container", value: {} } } },
  { name: "vm", uid: "wvm", spec: { kind: { case: "microVm", value: { kernelPath: "" } } } },
  { name: "own", uid: "wown", spec: { kind: { case: "microVm", value: { kernelPath: "root/boot/vmlinuz" } } } },
];
for (const { uid } of workloads) {
  for (const kind of ["log", "console"]) {
    mkdirSync(join(workloadsDir, uid, kind), { recursive: true });
    writeFileSync(join(workloadsDir, uid, kind, "current.log"), `the ${kind} of ${uid}\n`);
  }
}
const record = {
  uid: "wvm",
  name: "vm",
  env: [
    ["DB_PASSWORD", "hunter2-of-vm"],
    ["EMPTY", ""],
  ],
};
writeFileSync(join(workloadsDir, "wvm/machine.json"), JSON.stringify(record));

async function collected(withLogs: boolean): Promise<Record<string, string | undefined>> {
  const store = { workloads: { list: () => workloads } } as unknown as Store;
  const files: Record<string, string | undefined> = {};
  for (const { list } of workloadParts({ store, workloadsDir, withLogs })) {
    for (const part of await list()) files[part.name] = (await collectPart(part, new AbortController().signal)).text;
  }
  return files;
}

it("records of microVMs have the names of their environment, and not the values", async () => {
  const files = await collected(true);
  assert.deepEqual(JSON.parse(files["workloads/vm/machine.json"] ?? "").env, [
    ["DB_PASSWORD", mark],
    ["EMPTY", ""],
  ]);
  assert.equal(files["workloads/own/machine.json"], "");
  assert.ok(!JSON.stringify(files).includes("hunter2"));
});

it("what workloads write is there when it is asked for; the console of an own kernel is that too", async () => {
  const few = await collected(false);
  assert.equal(few["workloads/vm/console.log"], "the console of wvm\n");
  assert.ok(!Object.keys(few).some((name) => name.endsWith("output.log") || name.startsWith("workloads/own/console")));
  const all = await collected(true);
  assert.equal(all["workloads/own/console.log"], "the console of wown\n");
  assert.equal(all["workloads/box/output.log"], "the log of wbox\n");
  assert.equal(all["workloads/vm/output.log"], "the log of wvm\n");
});
