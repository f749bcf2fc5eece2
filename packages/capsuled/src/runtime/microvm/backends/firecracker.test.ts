import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { runPaths } from "../layout.ts";
import type { MachineConfig, Node, Program } from "./backend.ts";
import { FirecrackerBackend, program } from "./firecracker.ts";
import { configurationOf } from "./firecracker-config.ts";
import { faultIn, faultInMachine, fullVmConfiguration } from "./firecracker-schema.test-support.ts";
import { startOf } from "./firecracker-start.test-support.ts";

const config: MachineConfig = {
  uid: "3f0c6f1e-0000-4000-8000-000000000001",
  vcpus: 2,
  memoryBytes: 200 * 1024 ** 2 + 1,
  kernel: "/usr/lib/capsule/guest/vmlinux",
  initramfs: "/usr/lib/capsule/guest/initramfs",
  kernelArgs: ["one=1", "two"],
  disks: [
    { path: "/dev/pool/root", readOnly: false },
    { path: "/perm/volumes/data.raw", readOnly: true },
  ],
  network: { tap: "tap1", mac: "02:00:00:00:00:01" },
  accelerator: "kvm",
  isRestored: false,
};
const paths = runPaths(config.uid);
const backend = new FirecrackerBackend(() => undefined);

test("its configuration has what Firecracker knows, and nothing else", () => {
  for (const change of [{}, { network: undefined }, { initramfs: undefined }, { disks: [] }])
    assert.equal(faultIn(configurationOf({ ...config, ...change }), fullVmConfiguration), undefined);
  // That the check would tell:
  const wrong = { ...configurationOf(config), balloon: { amount_mib: "0", deflate_on_oom: false } };
  assert.equal(faultIn(wrong, fullVmConfiguration), "balloon.amount_mib is no integer from 0 to 4294967295");
  assert.equal(faultIn({ ...configurationOf(config), disks: [] }, fullVmConfiguration), "unknown field disks");
  assert.equal(faultIn({ ...configurationOf(config), toString: {} }, fullVmConfiguration), "unknown field toString");
  assert.match(faultIn(configurationOf({ ...config, vcpus: 33 }), fullVmConfiguration) ?? "", /vcpu_count/);
  const { drives } = configurationOf(config) as { drives: object[] };
  const twice = { ...configurationOf(config), drives: [...drives, drives[0]] };
  assert.equal(faultInMachine(twice), "drive_id is there twice");
});

test("the machine is as it was asked for", () => {
  assert.deepEqual(configurationOf(config), {
    "boot-source": {
      kernel_image_path: "/usr/lib/capsule/guest/vmlinux",
      initrd_path: "/usr/lib/capsule/guest/initramfs",
      boot_args: "console=ttyS0 quiet reboot=k panic=1 pci=off one=1 two",
    },
    "machine-config": { vcpu_count: 2, mem_size_mib: 201 },
    drives: [
      {
        drive_id: "disk0",
        path_on_host: "/dev/disk0",
        is_root_device: false,
        is_read_only: false,
        cache_type: "Writeback",
      },
      {
        drive_id: "disk1",
        path_on_host: "/dev/disk1",
        is_root_device: false,
        is_read_only: true,
        cache_type: "Writeback",
      },
    ],
    "network-interfaces": [{ iface_id: "eth0", host_dev_name: "tap1", guest_mac: "02:00:00:00:00:01" }],
    vsock: { guest_cid: 3, uds_path: "/run/agent" },
    entropy: {},
    balloon: { amount_mib: 0, deflate_on_oom: false, free_page_reporting: true },
  });
});

test("its jail has what it opens itself, and nothing else", () => {
  const { files = [], ...what } = backend.program(config, paths);
  assert.deepEqual(what, {
    argv: [
      "/usr/bin/firecracker",
      "--id",
      config.uid,
      "--api-sock",
      "/run/control",
      "--config-file",
      "/run/config.json",
    ],
    readOnly: ["/usr"],
    devices: ["/dev/null", "/dev/urandom"],
    open: [],
    nodes: [
      { path: "/dev/pool/root", at: "/dev/disk0", readOnly: false },
      { path: "/perm/volumes/data.raw", at: "/dev/disk1", readOnly: true },
      { path: "/dev/kvm", at: "/dev/kvm", readOnly: false },
      { path: "/dev/net/tun", at: "/dev/net/tun", readOnly: false },
    ],
    tap: "tap1",
    opensTap: true,
    readySocket: paths.control,
  });
  assert.deepEqual(
    files.map(({ at, content }) => [at, JSON.parse(content)]),
    [["/run/config.json", configurationOf(config)]],
  );
});

test("the stand-in starts from that, and not from less", () => {
  const program = backend.program(config, paths);
  assert.deepEqual(startOf(program), { state: "Running", memoryBytes: 201 * 1024 ** 2, interfaces: ["eth0"] });
  const nodes = (change: (node: Node) => Node[]): Program => ({ ...program, nodes: program.nodes.flatMap(change) });
  const without = (at: string): Program => nodes((node) => (node.at === at ? [] : [node]));
  for (const at of ["/dev/kvm", "/dev/disk1", "/dev/net/tun"])
    assert.throws(() => startOf(without(at)), { message: `${at}: No such file or directory` });
  assert.throws(() => startOf(nodes((node) => [{ ...node, readOnly: true }])), /\/dev\/kvm: Permission denied/);
  assert.throws(() => startOf({ ...program, opensTap: false }), /Open tap device failed: tap1/);
  assert.throws(() => startOf({ ...program, tap: "tap2" }), /Open tap device failed: tap1/);
  assert.throws(() => startOf({ ...program, readOnly: [] }), /vmlinux: No such file/);
  assert.throws(() => startOf({ ...program, files: [] }), /config.json: No such file/);
  assert.throws(() => startOf({ ...program, argv: [...program.argv, "--no-such", "x"] }), /'--no-such' which wasn't/);
  assert.throws(() => startOf({ ...program, argv: [...program.argv, "--id", "two"] }), /more than once/);
});

test("a machine that is restored is not configured", () => {
  const { argv, files } = backend.program({ ...config, isRestored: true }, paths);
  assert.deepEqual(argv.slice(-2), ["--api-sock", "/run/control"]);
  assert.deepEqual(files, []);
});

test("without its program it is refused", { skip: existsSync(program) }, () => {
  for (const found of [undefined, "kvm", "tcg"] as const)
    assert.equal(new FirecrackerBackend(() => found).unavailable(), "the image of this capsule is without Firecracker");
});

test("where its program is, the accelerator counts", () => {
  const reasons = ([undefined, "kvm", "tcg"] as const).map((found) =>
    new FirecrackerBackend(() => found, process.execPath).unavailable(),
  );
  assert.deepEqual(reasons, [undefined, undefined, "Firecracker needs KVM, which cannot be used here"]);
});
