/**
 * What a virtual machine monitor that was taken over can open, see and signal, in both forms of the jail: a program in its place
 * tries. QEMU is given its disks and its interface as descriptors; Firecracker opens them itself, by nodes in its root and by the
 * interface's name. No machine runs here: test/namespace/microvm-jail looks at one.
 */
import assert from "node:assert/strict";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import type { MachineConfig, Program } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import { FirecrackerBackend } from "../../packages/capsuled/src/runtime/microvm/backends/firecracker.ts";
import { QemuBackend } from "../../packages/capsuled/src/runtime/microvm/backends/qemu.ts";
import { runPaths, userOf } from "../../packages/capsuled/src/runtime/microvm/layout.ts";
import { assertApart, assertNoRights, openedBy, processesWith } from "../support/jail-sight.ts";
import { probeInPlaceOf } from "../support/jailed-probe.ts";
import { JailedProgram, until } from "../support/jailed-program.ts";
import { attachLoop } from "../support/loop.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const MiB = 1024 ** 2;
const uid = "3f0c6f1e-0000-4000-8000-000000000001";
const user = userOf(uid);
const tap = "probe-tap";
const [its, ours] = ["10.231.0.2", "10.231.0.1"];

let capsule: TestCapsule;
/** A loop device on the file `block`. */
let device: string;
let probe: JailedProgram | undefined;

before(async () => {
  capsule = await TestCapsule.start("jailprobe", []);
  for (const name of ["block", "file-2", "file-3"]) {
    await writeFile(join(capsule.local.perm, name), "");
    await truncate(join(capsule.local.perm, name), MiB);
  }
  device = await attachLoop(capsule, "/perm/block");
});
afterEach(async () => {
  if (probe === undefined) return;
  await probe.kill();
  await probe.clear();
  probe = undefined;
});
after(async () => {
  if (device !== undefined) await sh(`losetup --detach ${device}`);
  await capsule?.stop();
});

const sh = (script: string): Promise<string> => capsule.host.exec(["sh", "-c", script]);

function configOf(change: Partial<MachineConfig> = {}): MachineConfig {
  return {
    uid,
    vcpus: 1,
    memoryBytes: 128 * MiB,
    kernel: "/usr/lib/capsule/guest/vmlinux",
    initramfs: "/usr/lib/capsule/guest/initramfs",
    kernelArgs: [],
    disks: [
      { path: device, readOnly: false },
      { path: device, readOnly: true },
    ],
    network: { tap, mac: "02:00:00:00:00:01" },
    accelerator: "tcg",
    isRestored: false,
    ...change,
  };
}

async function qemu(change: Partial<MachineConfig> = {}): Promise<Program> {
  return new QemuBackend().program(configOf(change), runPaths(uid));
}

/** Its disks may be files too: as those of pools that are no device mapper's. Without KVM there is no node of it. */
async function firecracker(change: Partial<MachineConfig> = {}): Promise<Program> {
  const files = [
    { path: "/perm/file-2", readOnly: false },
    { path: "/perm/file-3", readOnly: true },
  ];
  const config = configOf({ accelerator: "kvm", ...change });
  const program = new FirecrackerBackend(() => "kvm").program(
    { ...config, disks: [...config.disks, ...files] },
    runPaths(uid),
  );
  const isThere = (await sh("[ -e /dev/kvm ] && echo yes || true")) !== "";
  return { ...program, nodes: program.nodes.filter(({ path }) => path !== "/dev/kvm" || isThere) };
}

type Expected = readonly (readonly [attempt: string, result: string | RegExp])[];

/** Starts a probe that makes these attempts and then is a machine; throws when another thing comes of one. */
async function assertTried(program: Program, expected: Expected): Promise<JailedProgram> {
  const attempts = [...expected.map(([attempt]) => attempt), "echo"];
  const inPlace = await probeInPlaceOf(capsule, program, attempts);
  probe = await JailedProgram.start(capsule, { name: "probe", program: inPlace, user });
  const said = await probe.said(expected.length);
  const wrong = expected.filter(([attempt, result], i) => {
    const line = said[i] ?? "";
    const found = line.startsWith(`${attempt}: `) ? line.slice(attempt.length + 2) : line;
    return typeof result === "string" ? found !== result : !result.test(found);
  });
  assert.deepEqual(wrong, [], said.join("\n"));
  return probe;
}

/**
 * In both forms, and for root of a user namespace too. The jail lets a program make one (the filters of QEMU and of Firecracker do
 * not), but there is nothing that it could reach by it.
 */
function forbidden(): Expected {
  return [
    ...["/proc/1/status", "/sys/class/net", "/perm/tls/server.crt", "/etc/passwd", "/run/capsule", "/dev/mem"].map(
      (path) => [`read ${path}`, "ENOENT"] as const,
    ),
    [`read ${device}`, "ENOENT"],
    ["mknod /run/node b 7 0", "EPERM"],
    ["mknod /run/node c 1 1", "EPERM"],
    ["create /usr/mine", "EROFS"],
    ["remount /usr", "EPERM"],
    ["create /mine", "EACCES"],
    ["create /dev/mine", "EACCES"],
    ["kill -1", "ESRCH"],
    ["kill 2", "ESRCH"],
    [`kill ${process.pid + 1}`, "ESRCH"],
    ["run /usr/bin/ip link add mine type dummy", /not permitted/],
  ];
}

function linksAre(...names: readonly string[]): Expected[number] {
  return [
    "run /usr/bin/ip -brief link",
    new RegExp(
      `^${[...names, "lo"].map((name) => `(?=(.* / )?${name}[@ ])`).join("")}([^/]*( / |$)){${names.length + 1}}$`,
    ),
  ];
}

/** A packet from the capsule's end of its interface comes back. */
async function assertEcho(): Promise<void> {
  await sh(
    `ip addr add ${ours}/24 dev ${tap} && ip link set ${tap} up && ip neigh replace ${its} lladdr 02:00:00:00:00:01 dev ${tap}`,
  );
  const script = `
    const socket = require("node:dgram").createSocket("udp4");
    socket.on("message", (text, { address }) => { console.log(text + " " + address); process.exit(); });
    socket.bind(0, "${ours}", () => setInterval(() => socket.send("frame", 7, "${its}"), 100));
    setTimeout(() => process.exit(1), 10_000);`;
  assert.equal((await capsule.host.exec(["/usr/bin/node", "-e", script])).trim(), `frame ${its}`);
}

async function assertJailed({ pid }: JailedProgram): Promise<void> {
  await assertNoRights(capsule, pid, user);
  await assertApart(capsule, [1, pid]);
  assert.deepEqual(await processesWith(capsule, pid), [pid]);
  assert.match(await sh(`cat /proc/${pid}/cgroup`), /^\d+:[^:]*:\/(.*\/)?probe$/m);
}

/** With its end, nothing of it is left but what its starter made. */
async function assertGone(ended: JailedProgram): Promise<void> {
  assert.equal(await ended.kill(), "signal 9");
  const isLinked = (): Promise<string> => sh(`ip link show dev ${tap} 2>/dev/null || true`);
  await until("its interface goes", async () => ((await isLinked()) === "" ? true : undefined));
  const mounts = await sh("grep -c /run/probe/root /proc/mounts || true");
  assert.equal(mounts.trim(), "0");
}

/** The first bytes of its disks. */
async function written(...names: readonly string[]): Promise<string[]> {
  return await Promise.all(names.map((name) => sh(`sync && head -c 1 /perm/${name} | tr '\\0' 0`)));
}

const forms = [
  ["QEMU", qemu],
  ["Firecracker", firecracker],
] as const;

for (const [name, programOf] of forms)
  describe(`a program in the place of ${name}, whatever it is`, { timeout: 120_000 }, () => {
    test("fills its own memory with what it writes, and nothing else", async () => {
      const attempt = "run /usr/bin/dd if=/dev/urandom of=/run/big bs=1M count=64";
      const program = await probeInPlaceOf(capsule, await programOf(), [attempt, "echo"]);
      probe = await JailedProgram.start(capsule, { name: "probe", program, user, memoryBytes: 32 * MiB });
      // The kernel ends the one that writes, or the program itself.
      await until("it is stopped", async () => await sh("cat /run/probe/monitor.exit || grep big /run/probe/said"));
      const written = Number(await sh("stat -c %s /run/probe/root/run/big"));
      assert.ok(written > 0 && written <= 32 * MiB, `${written} bytes`);
    });

    test("cannot fill the disk with what it says", async () => {
      const attempts = Array.from({ length: 6 }, () => "run /usr/bin/seq 200000");
      const program = await probeInPlaceOf(capsule, await programOf({ network: undefined }), attempts);
      probe = await JailedProgram.start(capsule, { name: "probe", program, user });
      await until("it has said all", async () => await sh("cat /run/probe/monitor.exit"));
      const sizes = (await sh("stat -c %s /run/probe/said*")).trim().split("\n").map(Number);
      assert.equal(sizes.length, 2);
      assert.ok(Math.max(...sizes) <= MiB + 32 * 1024 && Math.max(...sizes) > MiB / 2, sizes.join(" "));
    });
  });

describe("a program in the place of QEMU", { timeout: 120_000 }, () => {
  test("has its disks as they were given, its interface, and no way to more", async () => {
    const allowed: Expected = [
      ["read-fd 4", "done"],
      ["write-fd 4", "done"],
      ["read-fd 5", "done"],
      ["write-fd 5", "EBADF"],
      ["read-fd 6", "EBADF"],
      ["read /dev/net/tun", "ENOENT"],
      ["create /run/mine", "done"],
      linksAre(),
    ];
    const started = await assertTried(await qemu(), [...allowed, ...forbidden()]);
    await assertJailed(started);
    assert.deepEqual(await openedBy(capsule, started.pid), [device, "/dev/net/tun", "/dev/null", "pipe"]);
    assert.deepEqual(await written("block"), ["!"]);
    await assertEcho();
    await assertGone(started);
  });

  test("gains nothing by a user namespace", async () => {
    await assertTried(await qemu(), [["user-namespace", "done"], ...forbidden(), ["write-fd 5", "EBADF"]]);
  });
});

describe("a program in the place of Firecracker", { timeout: 120_000 }, () => {
  const readOnly: Expected = [
    ["write /dev/disk1", "EACCES"],
    ["chmod /dev/disk1", "EPERM"],
    ["write /dev/disk1", "EACCES"],
    ["write /dev/disk3", "EROFS"],
    ["chmod /dev/disk3", "EROFS"],
    ["remount /dev/disk3", "EPERM"],
    ["write /run/config.json", "EACCES"],
    ["tap other", "EPERM"],
  ];

  test("opens its disks and its interface, and no others", async () => {
    const allowed: Expected = [
      ...["/dev/disk0", "/dev/disk1", "/dev/disk2", "/dev/disk3", "/run/config.json"].map(
        (path) => [`read ${path}`, "done"] as const,
      ),
      ["write /dev/disk0", "done"],
      ["write /dev/disk2", "done"],
      ["read-fd 3", "EBADF"],
      ["create /run/mine", "done"],
      ["run /usr/bin/ls /dev", /^disk0 \/ disk1 \/ disk2 \/ disk3 \/ (kvm \/ )?net \/ null \/ urandom$/],
      linksAre(tap, "out", "solder"),
      ["run /usr/bin/ip link set solder down", /not permitted/],
      [`tap ${tap}`, "done"],
    ];
    const started = await assertTried(await firecracker(), [...allowed, ...readOnly, ...forbidden()]);
    await assertJailed(started);
    assert.deepEqual(await openedBy(capsule, started.pid), ["/dev/net/tun", "/dev/null", "pipe"]);
    assert.deepEqual(await written("block", "file-2", "file-3"), ["!", "!", "0"]);
    await assertEcho();
    await assertGone(started);
  });

  test("gains nothing by a user namespace", async () => {
    await assertTried(await firecracker(), [["user-namespace", "done"], ...readOnly, ...forbidden()]);
  });

  test("finds its interface again after a start that was cut short", async () => {
    await assertTried(await firecracker(), [[`tap ${tap}`, "done"]]);
    await probe?.kill();
    await probe?.clear();
    // At once: the kernel may not have taken the earlier one's namespace down.
    await assertTried(await firecracker(), [[`tap ${tap}`, "done"]]);
    await assertEcho();
  });

  test("has no network when its machine has none", async () => {
    await assertTried(await firecracker({ network: undefined }), [
      linksAre(),
      ["read /dev/net/tun", "ENOENT"],
      ["read-fd 3", "EBADF"],
    ]);
    assert.equal(await sh(`ip link show dev ${tap} 2>/dev/null || true`), "");
  });
});
