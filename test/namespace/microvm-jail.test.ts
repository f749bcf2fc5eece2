/**
 * What a virtual machine monitor that was taken over could do: a program in the place of one, with its namespaces, its root and
 * its user, tries. And what the monitor itself has, as its kernel tells.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { assertApart, assertNoRights, openedBy, processesWith } from "../support/jail-sight.ts";
import { workloadOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
/** Of each machine: pid of its monitor, as the capsule sees it, and its user. */
let machines: { readonly uid: string; readonly pid: number; readonly user: number }[];
before(async () => {
  capsule = await TestCapsule.start("vmjail", ["busybox"]);
  const fields =
    "  command: [sleep, 1d]\n  memoryMib: 96\n  stopTimeout: 0s\n  resources: {cpuMillis: 500}\n  mounts: [{volumeName: NAME, mountPath: /data}]";
  const manifests = ["one", "two"].map(
    (name) =>
      `kind: Volume\nname: ${name}\nsize: 16MiB\n---\n${workloadOf("MicroVM", name, "busybox:1", fields.replace("NAME", name))}`,
  );
  const { code, stderr } = await capsule.apply(manifests.join("---\n"), "--wait=180s");
  assert.equal(code, 0, stderr);
  machines = await Promise.all(
    ["one", "two"].map(async (name) => {
      const { uid = "", status } = await capsule.workload(name);
      const user = Number(await capsule.host.exec(["stat", "-c", "%u", `/proc/${status.pid}`]));
      return { uid, pid: status.pid, user };
    }),
  );
});
after(async () => await capsule?.stop());

const monitor = (): (typeof machines)[number] => machines[0] as (typeof machines)[number];
const sh = (script: string): Promise<string> => capsule.host.exec(["sh", "-c", script]);

/** Runs a script of Node in the place of the first machine's monitor; what it prints is JSON. */
async function inPlace<T>(script: string): Promise<T> {
  const { pid, user } = monitor();
  const place = ["-t", String(pid), "-m", "-n", "-i", "-u", "-p", "-r", "-w", "-S", String(user), "-G", String(user)];
  const prelude = `const fs = require("node:fs"); const tried = (work) => { try { work(); return "done"; } catch (error) { return error.code; } };`;
  const said = await capsule.host.exec(["nsenter", ...place, "--", "/usr/bin/node", "-e", `${prelude}\n${script}`]);
  return JSON.parse(said) as T;
}

describe("a microVM's monitor", { timeout: 120_000 }, () => {
  test("has a user of its own, no capability, no way to more rights, and its system calls are filtered", async () => {
    const { pid, user } = monitor();
    await assertNoRights(capsule, pid, user);
    assert.match(await sh(`cat /proc/${pid}/status`), /^Seccomp:\t2$/m);
    const [one, two] = machines;
    assert.ok(one && two && one.user > 65_535 && two.user > 65_535 && one.user !== two.user, JSON.stringify(machines));
  });

  test("has namespaces of its own", async () => {
    await assertApart(capsule, [1, ...machines.map(({ pid }) => pid)]);
  });

  test("sees programs, four devices and its sockets, and nothing of the capsule or of other machines", async () => {
    const seen = await inPlace<Record<string, string[]>>(
      `console.log(JSON.stringify(Object.fromEntries(["/", "/dev", "/run"].map((dir) => [dir, fs.readdirSync(dir).sort()]))))`,
    );
    assert.deepEqual(seen["/"], ["bin", "dev", "lib", "lib64", "run", "sbin", "usr"]);
    assert.deepEqual(
      seen["/dev"]?.filter((name) => name !== "kvm"),
      ["null", "urandom", "zero"],
    );
    assert.deepEqual(seen["/run"], ["agent", "control"]);
    const paths = ["/perm", "/proc", "/sys", "/etc/capsule", "/run/capsule", "/run/containerd", "/var"];
    const found = await inPlace<string[]>(
      `console.log(JSON.stringify(${JSON.stringify(paths)}.filter(fs.existsSync)))`,
    );
    assert.deepEqual(found, []);
  });

  test("has open what it was given: its disks, its interface, and no more of the capsule", async () => {
    const { pid, uid } = monitor();
    const files = (await openedBy(capsule, pid)).filter((link) => link.startsWith("/") && !link.startsWith("/memfd:"));
    const strangers = files.filter((path) => !/^\/(dev\/(null|net\/tun|kvm|urandom)|usr\/.*)$/.test(path));
    const disks = strangers.map((path) => path.split("/").at(-1)?.split("@")[0]).sort();
    assert.deepEqual(disks, [`root-${uid}`, "vol-one"]);
  });

  test("can change nothing but in the directory of its sockets", async () => {
    const dirs = ["/", "/usr", "/usr/lib", "/dev", "/run"];
    const results = await inPlace<string[]>(
      `console.log(JSON.stringify(${JSON.stringify(dirs)}.map((dir) => tried(() => fs.writeFileSync(dir + "/mine", "")))))`,
    );
    assert.deepEqual(
      results.slice(0, 4).filter((result) => !["EACCES", "EROFS"].includes(result)),
      [],
    );
    assert.equal(results[4], "done");
    await sh(`rm /run/capsule/vm/${monitor().uid}/root/run/mine`);
  });

  test("can signal itself alone: it has a process namespace of its own, and no other is in it", async () => {
    const { pid } = monitor();
    assert.deepEqual(await processesWith(capsule, pid), [pid]);
    // What is outside has no number there.
    const reached = await inPlace<string[]>(
      `console.log(JSON.stringify([1000, ${process.pid}, 99999].map((pid) => tried(() => process.kill(pid, 0)))))`,
    );
    assert.deepEqual(reached, ["ESRCH", "ESRCH", "ESRCH"]);
  });

  test("has no network but the one interface that it was given", async () => {
    const result = await inPlace<{ interfaces: string[]; address: string }>(
      `const socket = require("node:net").connect(50000, "10.0.0.1"); socket.on("error", (error) => console.log(JSON.stringify({ interfaces: Object.keys(require("node:os").networkInterfaces()), address: error.code })))`,
    );
    assert.deepEqual(result, { interfaces: [], address: "ENETUNREACH" });
  });

  test("has limits of memory, processors and processes", async () => {
    const { uid, pid } = monitor();
    const groups = await sh(`cat /proc/${pid}/cgroup`);
    assert.ok(groups.includes(uid), groups);
    const read = async (...names: string[]): Promise<string> =>
      (
        await sh(`cat ${names.map((name) => `$(find /sys/fs/cgroup -path "*${uid}/${name}")`).join(" ")} /dev/null`)
      ).trim();
    const memory = Number(await read("memory.max", "memory.limit_in_bytes"));
    assert.ok(memory > 96 * 1024 ** 2 && memory < 512 * 1024 ** 2, String(memory));
    assert.match(await read("cpu.max", "cpu.cfs_quota_us"), /^50000/);
    assert.equal(await read("pids.max"), "256");
  });
});
