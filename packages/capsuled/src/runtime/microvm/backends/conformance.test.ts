/**
 * The suite of all backends. What they say of their programs; and Firecracker's machines, with the stand-in in its place.
 * QEMU's own, and Firecracker's with a real program, are in test/namespace/microvm-backends.
 */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before } from "node:test";
import { runPaths } from "../layout.ts";
import type { MachineConfig } from "./backend.ts";
import { conformsInMachines, type MachineState } from "./conformance-machine.test-support.ts";
import { conformsInPrograms } from "./conformance-program.test-support.ts";
import { FirecrackerBackend } from "./firecracker.ts";
import { FirecrackerStandIn } from "./firecracker-standin.test-support.ts";
import { startOf } from "./firecracker-start.test-support.ts";
import { QemuBackend } from "./qemu.ts";

const MiB = 1024 ** 2;
const backend = new FirecrackerBackend(() => "kvm");
const config: MachineConfig = {
  uid: "3f0c6f1e-0000-4000-8000-000000000001",
  vcpus: 1,
  memoryBytes: 2 * MiB,
  kernel: "/usr/lib/capsule/guest/vmlinux",
  initramfs: "/usr/lib/capsule/guest/initramfs",
  kernelArgs: [],
  disks: [
    { path: "/dev/pool/root", readOnly: false },
    { path: "/dev/pool/volume", readOnly: true },
  ],
  network: { tap: "tap1", mac: "02:00:00:00:00:01" },
  accelerator: "kvm",
  isRestored: false,
};
const states = { Running: "runs", Paused: "stands still", "Not started": "waits" } as const;

conformsInPrograms(new QemuBackend());
conformsInPrograms(backend);

let dir: string;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "capsule-conformance-"));
});
after(async () => await rm(dir, { recursive: true, force: true }));

let count = 0;
conformsInMachines("Firecracker's stand-in", () => ({
  backend,
  machine: config,
  start: async (isRestored) => {
    const sockets = join(dir, String(count++));
    await mkdir(sockets);
    const paths = { ...runPaths(config.uid), sockets, control: join(sockets, "control") };
    const { state, memoryBytes, interfaces } = startOf(backend.program({ ...config, isRestored }, paths));
    const memory = Buffer.alloc(memoryBytes, "guest");
    const standIn = await FirecrackerStandIn.start({ dir: sockets, state, memory, interfaces });
    return {
      paths,
      state: async (): Promise<MachineState> => states[standIn.state],
      kill: async () => standIn.close(),
    };
  },
}));
