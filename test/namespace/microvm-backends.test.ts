/**
 * The suite of all backends with real programs, each in its jail in a capsule: QEMU, emulated; and Firecracker where an image was
 * made with it (FIRECRACKER names its program; it needs KVM). Its stand-in is in backends/conformance.test.ts.
 */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe } from "node:test";
import type { MachineConfig, MicroVmBackend } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import {
  conformsInMachines,
  type MachineState,
} from "../../packages/capsuled/src/runtime/microvm/backends/conformance-machine.test-support.ts";
import { FirecrackerBackend } from "../../packages/capsuled/src/runtime/microvm/backends/firecracker.ts";
import { firecracker } from "../../packages/capsuled/src/runtime/microvm/backends/firecracker-api.ts";
import { QemuBackend } from "../../packages/capsuled/src/runtime/microvm/backends/qemu.ts";
import { qmp } from "../../packages/capsuled/src/runtime/microvm/backends/qmp.ts";
import { runPaths, userOf } from "../../packages/capsuled/src/runtime/microvm/layout.ts";
import { conformsInGuests, type GuestBackendUnderTest, type GuestUnderTest } from "../guest/conformance.ts";
import { makeDisk, makeRootTree } from "../guest/machine.ts";
import { JailedProgram, until } from "../support/jailed-program.ts";
import { attachLoop } from "../support/loop.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const MiB = 1024 ** 2;
const uid = "3f0c6f1e-0000-4000-8000-000000000001";
const withoutProgram =
  (process.env["FIRECRACKER"] ?? "") === "" ? "FIRECRACKER names no program of it: only its stand-in was tried" : false;

let capsule: TestCapsule;
/** Loop devices: of a root, and of a volume. */
const devices: string[] = [];
const ended: JailedProgram[] = [];
before(async () => {
  capsule = await TestCapsule.start("backends", []);
  const { perm } = capsule.local;
  await makeRootTree(join(perm, "tree"));
  await mkdir(join(perm, "data/sub/dir"), { recursive: true });
  await writeFile(join(perm, "data/sub/dir/file"), "content\n");
  await makeDisk(join(perm, "root.raw"), 64, join(perm, "tree"));
  await makeDisk(join(perm, "volume.raw"), 16, join(perm, "data"));
  for (const name of ["root.raw", "volume.raw"]) devices.push(await attachLoop(capsule, `/perm/${name}`));
});
after(async () => {
  for (const jailed of ended) await jailed.clear();
  for (const device of devices) await capsule.host.exec(["losetup", "--detach", device]);
  await capsule?.stop();
});

let count = 0;

/** `stateOf`: of the machine whose monitor is asked there. */
function realBackend(
  backend: MicroVmBackend,
  accelerator: MachineConfig["accelerator"],
  stateOf: (control: string) => Promise<MachineState>,
): GuestBackendUnderTest {
  const config: MachineConfig = {
    uid,
    vcpus: 1,
    memoryBytes: 96 * MiB,
    kernel: "/usr/lib/capsule/guest/vmlinux",
    initramfs: "/usr/lib/capsule/guest/initramfs",
    kernelArgs: [],
    disks: devices.map((path, i) => ({ path, readOnly: i > 0 })),
    network: { tap: "backend-tap", mac: "02:00:00:00:00:01" },
    accelerator,
    isRestored: false,
  };
  return {
    backend,
    machine: config,
    start: async (isRestored): Promise<GuestUnderTest> => {
      const name = `machine-${count++}`;
      // As it is seen from here.
      const sockets = `/proc/${capsule.local.initPid}/root/run/${name}/root/run`;
      const paths = { ...runPaths(uid), sockets, control: `${sockets}/control`, agent: `${sockets}/agent` };
      const program = backend.program({ ...config, isRestored }, paths);
      const jailed = await JailedProgram.start(capsule, { name, program, user: userOf(uid) });
      await until(`${backend.name} listens`, async () => (existsSync(program.readySocket) ? true : undefined));
      return {
        paths,
        state: async () => await stateOf(paths.control),
        ended: async () => await jailed.ended(),
        kill: async () => {
          await jailed.kill();
          if (!ended.includes(jailed)) ended.push(jailed);
        },
      };
    },
  };
}

const qemu = (): GuestBackendUnderTest =>
  realBackend(new QemuBackend(), "tcg", async (control) => {
    const { status } = (await qmp(control, "query-status")) as { status: string };
    const states: Readonly<Record<string, MachineState>> = {
      running: "runs",
      paused: "stands still",
      postmigrate: "stands still",
      inmigrate: "waits",
    };
    const state = states[status];
    if (state === undefined) throw new Error(`it is ${status}`);
    return state;
  });

const realFirecracker = (): GuestBackendUnderTest =>
  realBackend(new FirecrackerBackend(() => "kvm"), "kvm", async (control) => {
    const { state } = (await firecracker(control, "GET", "/")) as { state: "Not started" | "Running" | "Paused" };
    return ({ "Not started": "waits", Running: "runs", Paused: "stands still" } as const)[state];
  });

describe("QEMU's program", () => {
  conformsInMachines("QEMU, emulated", qemu);
  conformsInGuests("QEMU, emulated", qemu);
});

describe("Firecracker's program", { skip: withoutProgram }, () => {
  conformsInMachines("Firecracker", realFirecracker);
  conformsInGuests("Firecracker", realFirecracker);
});
