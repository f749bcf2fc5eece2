/** What the kernel tells of a jailed process, seen from the capsule; the same of whatever runs in a jail. */
import assert from "node:assert/strict";
import type { TestCapsule } from "./test-capsule.ts";

const none = "0000000000000000";

/** It has a user of its own alone, no capability in any set, and no way to more. */
export async function assertNoRights(capsule: TestCapsule, pid: number, user: number): Promise<void> {
  const status = new Map(
    (await capsule.host.exec(["cat", `/proc/${pid}/status`])).split("\n").map((line) => {
      const [key = "", value = ""] = line.split(":\t");
      return [key, value.trim()];
    }),
  );
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) assert.equal(status.get(set), none, set);
  assert.equal(status.get("NoNewPrivs"), "1");
  assert.equal(status.get("Groups"), "");
  for (const ids of ["Uid", "Gid"]) assert.deepEqual(status.get(ids)?.split("\t"), Array(4).fill(String(user)), ids);
}

/** Each of these processes has all its namespaces for itself. */
export async function assertApart(capsule: TestCapsule, pids: readonly number[]): Promise<void> {
  for (const kind of ["mnt", "pid", "net", "ipc", "uts"]) {
    const links = await Promise.all(pids.map((pid) => capsule.host.exec(["readlink", `/proc/${pid}/ns/${kind}`])));
    assert.equal(new Set(links).size, pids.length, `${kind}: ${links.join(" ")}`);
  }
}

/** Pids, as the capsule sees them, of all that is in its process namespace. */
export async function processesWith(capsule: TestCapsule, pid: number): Promise<number[]> {
  const script = `own=$(readlink /proc/${pid}/ns/pid); for dir in /proc/[0-9]*; do [ "$(readlink $dir/ns/pid)" != "$own" ] || echo $dir; done`;
  const dirs = (await capsule.host.exec(["sh", "-c", script])).split("\n").filter((line) => line !== "");
  return dirs.map((dir) => Number(dir.slice("/proc/".length)));
}

/** What its open descriptors lead to: paths, and of what has none the kind (`pipe`, `socket`, `anon_inode`); each once. */
export async function openedBy(capsule: TestCapsule, pid: number): Promise<string[]> {
  const links = await capsule.host.exec(["sh", "-c", `for fd in /proc/${pid}/fd/*; do readlink $fd; done`]);
  return [...new Set(links.split("\n").filter((link) => link !== ""))].map((link) => link.replace(/:\[.*/, "")).sort();
}
