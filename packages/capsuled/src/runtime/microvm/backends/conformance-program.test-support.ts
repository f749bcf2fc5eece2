/** What every backend promises of the program that it has started: what is run, and what its jail is to have. */
import assert from "node:assert/strict";
import { dirname, isAbsolute } from "node:path";
import { describe, test } from "node:test";
import { CapsuleError } from "../../../errors.ts";
import { runPaths } from "../layout.ts";
import type { MachineConfig, MicroVmBackend, Program } from "./backend.ts";
import { accessTo } from "./jail-view.test-support.ts";

const MiB = 1024 ** 2;
/** Devices that give a program nothing of the capsule. */
const harmless = ["/dev/null", "/dev/zero", "/dev/urandom"];
/** Files that are there, in the place of disks: a backend may look at what kind of file a disk is. */
const [root, volume] = [process.execPath, import.meta.filename];

export function conformsInPrograms(backend: MicroVmBackend): void {
  const uid = "3f0c6f1e-0000-4000-8000-000000000001";
  const paths = runPaths(uid);
  const programOf = (change: Partial<MachineConfig> = {}): Program =>
    backend.program(
      {
        uid,
        vcpus: 2,
        memoryBytes: 200 * MiB + 1,
        kernel: "/usr/lib/capsule/guest/vmlinux",
        initramfs: "/usr/lib/capsule/guest/initramfs",
        kernelArgs: ["one=1", "two"],
        disks: [
          { path: root, readOnly: false },
          { path: volume, readOnly: true },
        ],
        network: { tap: "tap1", mac: "02:00:00:00:00:01" },
        accelerator: "kvm",
        isRestored: false,
        ...change,
      },
      paths,
    );
  /** All that is said to the program. */
  const saidTo = ({ argv, files = [] }: Program): string =>
    [...argv, ...files.map(({ content }) => content)].join("\n");

  describe(`${backend.name}: the program of a machine`, () => {
    test("has each disk once, read-only if it is, and knows no path of the capsule to it", () => {
      for (const isRestored of [false, true]) {
        const program = programOf({ isRestored });
        const disks = [...program.open, ...program.nodes.filter(({ path }) => [root, volume].includes(path))];
        assert.deepEqual(
          disks.map(({ path, readOnly }) => ({ path, readOnly })),
          [
            { path: root, readOnly: false },
            { path: volume, readOnly: true },
          ],
        );
        for (const path of [root, volume])
          assert.ok(!saidTo(program).includes(path) && accessTo(program, path) !== "write", path);
      }
      const without = programOf({ disks: [] });
      assert.deepEqual([...without.open, ...without.nodes.filter(({ path }) => !path.startsWith("/dev/"))], []);
    });

    test("sees /usr and its kernel read-only, and of devices what it needs", () => {
      const program = programOf();
      assert.deepEqual(program.readOnly, ["/usr"]);
      const own = programOf({ kernel: "/run/capsule/boot/1/kernel", initramfs: "/run/capsule/boot/1/initramfs" });
      assert.deepEqual([...own.readOnly].sort(), ["/run/capsule/boot/1", "/usr"]);
      assert.equal(accessTo(own, "/run/capsule/boot/1/kernel"), "read");
      const devices = program.nodes.map(({ path }) => path).filter((path) => path.startsWith("/dev/"));
      const strange = [...program.devices, ...devices].filter((path) => !harmless.includes(path));
      assert.deepEqual(strange.sort(), program.opensTap ? ["/dev/kvm", "/dev/net/tun"] : ["/dev/kvm"]);
    });

    test("is there itself, with its kernel, and finds its files and nodes at places of its own", () => {
      const program = programOf();
      const [path = ""] = program.argv;
      assert.ok(isAbsolute(path));
      for (const seen of [path, "/usr/lib/capsule/guest/vmlinux", "/usr/lib/capsule/guest/initramfs"])
        assert.equal(accessTo(program, seen), "read", seen);
      const places = [...program.nodes, ...(program.files ?? [])].map(({ at }) => at);
      assert.equal(new Set([...places, ...program.devices]).size, places.length + program.devices.length);
      for (const { at } of program.nodes) assert.match(at, /^\/dev\/[a-z0-9/]+$/);
      // Where it may write, and capsuled looks for its sockets.
      for (const { at } of program.files ?? []) assert.equal(dirname(at), "/run");
      assert.equal(dirname(program.readySocket), paths.sockets);
      assert.ok(saidTo(program).includes("/run/control") && !saidTo(program).includes(paths.dir));
    });

    test("is told what its kernel is to be told, last", () => {
      assert.match(saidTo(programOf()), /console=ttyS0 [^\n"]*one=1 two["\n]/);
      assert.match(saidTo(programOf({ initramfs: undefined })), /guest\/vmlinux/);
      assert.doesNotMatch(saidTo(programOf({ initramfs: undefined })), /guest\/initramfs/);
    });

    test("has the interface that it was given, and none when there is none", () => {
      const program = programOf();
      assert.equal(program.tap, "tap1");
      assert.ok(saidTo(program).includes("02:00:00:00:00:01"));
      // Only who opens it has to know its name.
      assert.equal(saidTo(program).includes("tap1"), program.opensTap);
      const without = programOf({ network: undefined });
      assert.deepEqual([without.tap, without.opensTap], [undefined, false]);
      assert.equal(accessTo(without, "/dev/net/tun"), undefined);
    });

    test("has what it has, booted or restored: the state is what makes the difference", () => {
      const [booted, restored] = [programOf(), programOf({ isRestored: true })];
      const { argv: _a, files: _f, ...same } = booted;
      const { argv: _b, files: _g, ...there } = restored;
      assert.deepEqual(there, same);
      assert.notDeepEqual(restored.argv, booted.argv);
    });

    test("emulates without KVM's device, or says why it cannot", () => {
      assert.equal(accessTo(programOf(), "/dev/kvm"), "write");
      let emulated: Program;
      try {
        emulated = programOf({ accelerator: "tcg" });
      } catch (error) {
        assert.ok(error instanceof CapsuleError, String(error));
        assert.deepEqual([error.kind, error.reason], ["precondition", "NO_BACKEND"]);
        assert.match(error.message, /KVM/);
        return;
      }
      assert.equal(accessTo(emulated, "/dev/kvm"), undefined);
    });

    test("needs memory of its own: some, and not as much as its guest", () => {
      for (const accelerator of ["kvm", "tcg"] as const) {
        const [small = 0, large = 0, huge = 0] = [96, 1024, 64 * 1024].map((mib) =>
          backend.overheadBytes({ memoryBytes: mib * MiB, accelerator }),
        );
        assert.ok(Number.isInteger(small) && small >= 16 * MiB && small <= large && large <= huge, `${small} ${large}`);
        assert.ok(large <= 256 * MiB && huge <= 1024 * MiB, `${large} ${huge}`);
      }
    });

    test("is there, or the reason why not is told", () => {
      const reason = backend.unavailable();
      assert.ok(reason === undefined || /^[A-Za-z][^\n]+[^.\n]$/.test(reason), reason);
    });
  });
}
