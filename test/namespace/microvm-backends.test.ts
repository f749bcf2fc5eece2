/**
 * The suite of all backends with real programs, each in its jail in a capsule: QEMU, emulated; and Firecracker where an image was
 * made with it (FIRECRACKER names its program; it needs KVM). Its stand-in is in backends/conformance.test.ts.
 */
import { existsSync } from "node:fs";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe } from "node:test";
import type { MachineConfig, MicroVmBackend } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import {
  type BackendUnderTest,
  conformsInMachines,
  type MachineState,
  type MachineUnderTest,
} from "../../packages/capsuled/src/runtime/microvm/backends/conformance-machine.test-support.ts";
import { FirecrackerBackend } from "../../packages/capsuled/src/runtime/microvm/backends/firecracker.ts";
import { firecracker } from "../../packages/capsuled/src/runtime/microvm/backends/firecracker-api.ts";
import { QemuBackend } from "../../packages/capsuled/src/runtime/microvm/backends/qemu.ts";
import { qmp } from "../../packages/capsuled/src/runtime/microvm/backends/qmp.ts";
import { runPaths, userOf } from "../../packages/capsuled/src/runtime/microvm/layout.ts";
import { JailedProgram, until } from "../support/jailed-program.ts";
import { attachLoop } from "../support/loop.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const MiB = 1024 ** 2;
const uid = "3f0c6f1e-0000-4000-8000-000000000001";
const withoutProgram =
  (process.env["FIRECRACKER"] ?? "") === "" ? "FIRECRACKER names no program of it: only its stand-in was tried" : false;

let capsule: TestCapsule;
let device: string;
const ended: JailedProgram[] = [];
before(async () => {
  capsule = await TestCapsule.start("backends", []);
  await writeFile(join(capsule.local.perm, "block"), "");
  await truncate(join(capsule.local.perm, "block"), MiB);
  device = await attachLoop(capsule, "/perm/block");
});
after(async () => {
  for (const jailed of ended) await jailed.clear();
  if (device !== undefined) await capsule.host.exec(["losetup", "--detach", device]);
  await capsule?.stop();
});

let count = 0;

/** `stateOf`: of the machine whose monitor is asked there. */
function realBackend(
  backend: MicroVmBackend,
  accelerator: MachineConfig["accelerator"],
  stateOf: (control: string) => Promise<MachineState>,
): BackendUnderTest {
  const config: MachineConfig = {
    uid,
    vcpus: 1,
    memoryBytes: 96 * MiB,
    kernel: "/usr/lib/capsule/guest/vmlinux",
    initramfs: "/usr/lib/capsule/guest/initramfs",
    kernelArgs: [],
    disks: [
      { path: device, readOnly: false },
      { path: device, readOnly: true },
    ],
    network: { tap: "backend-tap", mac: "02:00:00:00:00:01" },
    accelerator,
    isRestored: false,
  };
  return {
    backend,
    machine: config,
    start: async (isRestored): Promise<MachineUnderTest> => {
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
        kill: async () => {
          await jailed.kill();
          if (!ended.includes(jailed)) ended.push(jailed);
        },
      };
    },
  };
}

conformsInMachines("QEMU, emulated", () =>
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
  }),
);

describe("Firecracker's program", { skip: withoutProgram }, () => {
  conformsInMachines("Firecracker", () =>
    realBackend(new FirecrackerBackend(() => "kvm"), "kvm", async (control) => {
      const { state } = (await firecracker(control, "GET", "/")) as { state: "Not started" | "Running" | "Paused" };
      return ({ "Not started": "waits", Running: "runs", Paused: "stands still" } as const)[state];
    }),
  );
});
