import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create, fromJson, type JsonObject } from "@bufbuild/protobuf";
import { ApplyResult_Action, type Resource, ResourceSchema, type WorkloadSpec, WorkloadSpecSchema } from "@capsule/api";
import { CapsuleError } from "../errors.ts";
import { normalizeReference } from "../runtime/container/reference.ts";
import { Pool, Pools } from "../storage/pool/pools.ts";
import { ReflinkBackend } from "../storage/pool/reflink.ts";
import { VolumeManager } from "../storage/volumes/manager.ts";
import { Store } from "../store/store.ts";
import { diffSpecs } from "./diff.ts";
import { WorkloadManager } from "./manager.ts";
import { validateWorkload } from "./validate.ts";
import type { MachineLimits } from "./validate-machine.ts";

const machines: MachineLimits = {
  vcpus: 2,
  memoryMib: 4_096,
  unavailable: (backend) => (backend === "qemu" ? undefined : "there is none"),
};
const spec = (container: JsonObject = {}, name = "web"): WorkloadSpec =>
  fromJson(WorkloadSpecSchema, { name, container: { image: "x", ...container } });
const paths = (container: JsonObject, name = "web"): string[] =>
  validateWorkload(spec(container, name), machines).map(({ path }) => path);

describe("validation", () => {
  it("takes what is right", () => {
    const good: JsonObject = {
      command: ["a"],
      env: [{ name: "A", value: "" }],
      ports: [
        { containerPort: 80 },
        { containerPort: 80, protocol: "PROTOCOL_UDP" },
        { containerPort: 80, hostPort: 1, hostAddress: "::1" },
      ],
      resources: { cpuMillis: 10, memoryMib: 6 },
      capabilities: { drop: ["ALL"], add: ["cap_chown"] },
      sysctls: { "net.core.somaxconn": "1", "kernel.shmmax": "1" },
      tmpfs: [{ mountPath: "/tmp" }],
      stopTimeout: "600s",
      stopSignal: "SIGRTMIN+3",
    };
    assert.deepEqual(paths(good), []);
  });

  it("names the path of each fault", () => {
    const cases: [JsonObject, string][] = [
      [{ image: "" }, "container.image"],
      [{ env: [{ name: "A=B" }] }, "container.env[0].name"],
      [{ env: [{ name: "A" }, { name: "A" }] }, "container.env[1].name"],
      [{ command: ["a\0"] }, "container.command[0]"],
      [{ workingDir: "../x" }, "container.workingDir"],
      [{ ports: [{ containerPort: 0 }] }, "container.ports[0].containerPort"],
      [{ ports: [{ containerPort: 80, hostPort: 50_000 }] }, "container.ports[0].hostPort"],
      [{ ports: [{ containerPort: 1 }, { containerPort: 2, hostPort: 1 }] }, "container.ports[1].hostPort"],
      [{ ports: [{ containerPort: 1, hostAddress: "fe80::1%eth0" }] }, "container.ports[0].hostAddress"],
      [{ ports: [{ containerPort: 1 }], networkMode: "NETWORK_MODE_HOST" }, "container.ports"],
      [{ resources: { memoryMib: 5 } }, "container.resources.memoryMib"],
      [{ resources: { cpuMillis: 1 } }, "container.resources.cpuMillis"],
      [{ sysctls: { "vm.swappiness": "1" } }, 'container.sysctls["vm.swappiness"]'],
      [
        { sysctls: { "net.core.somaxconn": "1" }, networkMode: "NETWORK_MODE_HOST" },
        'container.sysctls["net.core.somaxconn"]',
      ],
      [{ privileged: true, userNamespace: true }, "container.privileged"],
      [{ stopTimeout: "601s" }, "container.stopTimeout"],
      [{ restartPolicy: 9 }, "container.restartPolicy"],
      [{ mounts: [{ volumeName: "V", mountPath: "/v" }] }, "container.mounts[0].volumeName"],
      [{ mounts: [{ volumeName: "v", mountPath: "/v/../w" }] }, "container.mounts[0].mountPath"],
      [{ mounts: [{ volumeName: "v", mountPath: "/proc/x" }] }, "container.mounts[0].mountPath"],
      [{ mounts: [{ volumeName: "v", mountPath: "/" }] }, "container.mounts[0].mountPath"],
      [{ mounts: [{ volumeName: "v", mountPath: "/v", subPath: "../x" }] }, "container.mounts[0].subPath"],
      [
        { mounts: [{ volumeName: "v", mountPath: "/v" }], tmpfs: [{ mountPath: "/v/" }] },
        "container.tmpfs[0].mountPath",
      ],
      [{ capabilities: { add: ["no such"] } }, "container.capabilities.add[0]"],
      [{ hostname: "-x" }, "container.hostname"],
    ];
    for (const [container, path] of cases) assert.deepEqual(paths(container), [path], JSON.stringify(container));
    for (const name of ["", "A", "-a", "a-", "a.b", "a_b", "x".repeat(64), "a\n"])
      assert.deepEqual(paths({}, name), ["name"], name);
  });

  it("bounds what it says of huge input", () => {
    assert.ok(paths({ env: Array.from({ length: 10_000 }, () => ({ name: "=" })) }).length <= 50);
  });
});

describe("comparison", () => {
  it("finds no change in defaults written out", () => {
    const written = spec({
      networkMode: "NETWORK_MODE_BRIDGE",
      restartPolicy: "RESTART_POLICY_ALWAYS",
      hostname: "web",
      ports: [{ containerPort: 80, hostPort: 80, protocol: "PROTOCOL_TCP" }],
    });
    assert.deepEqual(diffSpecs(spec({ ports: [{ containerPort: 80 }] }), written), []);
  });

  it("names each field that changed", () => {
    assert.deepEqual(diffSpecs(spec({ args: ["a", "b"], sysctls: { "a.b": "1" } }), spec({ args: ["a", "c", "d"] })), [
      { path: "container.args[1]", before: '"b"', after: '"c"' },
      { path: "container.args[2]", before: "", after: '"d"' },
      { path: 'container.sysctls["a.b"]', before: '"1"', after: "" },
    ]);
    assert.deepEqual(diffSpecs(undefined, spec()), [{ path: "container.image", before: "", after: '"x"' }]);
  });
});

describe("validation of a microVM", () => {
  const faults = (microVm: JsonObject): string[] =>
    validateWorkload(fromJson(WorkloadSpecSchema, { name: "vm", microVm: { image: "x", ...microVm } }), machines).map(
      ({ path, description }) => `${path}: ${description}`,
    );

  it("takes all that the capsule has, and no more", () => {
    assert.deepEqual(faults({ vcpus: 2, memoryMib: 4_096 }), []);
    assert.match(faults({ vcpus: 3 }).join(), /^microVm\.vcpus: 3 .*has 2 processors$/);
    assert.match(faults({ memoryMib: 4_097 }).join(), /^microVm\.memoryMib: 4097 .*has 4096 MiB$/);
    assert.match(faults({ memoryMib: 95 }).join(), /^microVm\.memoryMib: 95 .*at least 96$/);
  });

  it("refuses a backend that the capsule does not have, with the reason", () => {
    assert.deepEqual(faults({}), []);
    assert.deepEqual(faults({ backend: "MICRO_VM_BACKEND_QEMU" }), []);
    assert.deepEqual(faults({ backend: "MICRO_VM_BACKEND_FIRECRACKER" }), ["microVm.backend: there is none"]);
    const large: MachineLimits = { ...machines, vcpus: 64, unavailable: () => undefined };
    const many = { image: "x", backend: "MICRO_VM_BACKEND_FIRECRACKER", vcpus: 33 };
    const found = validateWorkload(fromJson(WorkloadSpecSchema, { name: "vm", microVm: many }), large);
    assert.deepEqual(
      found.map(({ path, description }) => [path, description]),
      [["microVm.vcpus", "33 is not possible: Firecracker has at most 32"]],
    );
    assert.match(faults({ backend: "MICRO_VM_BACKEND_LIBKRUN" }).join(), /^microVm\.backend: .*libkrun/);
  });
});

describe("validation of an own kernel", () => {
  const own = { kernelPath: "root/boot/vmlinuz", rootfsPath: "root" };
  const faults = (microVm: JsonObject): string[] =>
    validateWorkload(fromJson(WorkloadSpecSchema, { name: "vm", microVm }), machines).map(({ path }) => path);

  it("takes files of volumes, and a volume as the root disk", () => {
    assert.deepEqual(faults(own), []);
    assert.deepEqual(faults({ ...own, initramfsPath: "root/boot/initrd", kernelArgs: "quiet init=/sbin/init" }), []);
  });

  it("refuses what is no file of a volume", () => {
    for (const path of ["/perm/tls/key", "vmlinuz", "root/", "root/../x", "root//x", "ROOT/x", "/x", "root/a/./b"])
      assert.deepEqual(faults({ ...own, kernelPath: path }), ["microVm.kernelPath"], path);
    assert.deepEqual(faults({ ...own, rootfsPath: "root/disk.img" }), ["microVm.rootfsPath"]);
    assert.deepEqual(faults({ kernelPath: "root/x" }), ["microVm.rootfsPath"]);
    assert.deepEqual(faults({ ...own, kernelArgs: "a\nb" }), ["microVm.kernelArgs"]);
  });

  it("refuses what an agent would do, and the parts of an own kernel without one", () => {
    assert.deepEqual(faults({ ...own, image: "x", command: ["sh"], mounts: [{ volumeName: "v", mountPath: "/v" }] }), [
      "microVm.image",
      "microVm.command",
      "microVm.mounts",
    ]);
    assert.deepEqual(faults({ image: "x", rootfsPath: "root", kernelArgs: "quiet" }), [
      "microVm.rootfsPath",
      "microVm.kernelArgs",
    ]);
  });
});

describe("apply", () => {
  let dir: string;
  let store: Store;
  let manager: WorkloadManager;
  let volumes: VolumeManager;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "capsule-manager-"));
    store = new Store(join(dir, "state.db"));
    const pools = new Pools([new Pool("default", new ReflinkBackend({ pool: "default" }))]);
    volumes = new VolumeManager({ store, pools });
    manager = new WorkloadManager({
      store,
      images: { normalize: normalizeReference },
      volumes,
      machines,
      allocate: () => undefined,
    });
  });
  afterEach(() => {
    store.close();
    rmSync(dir, { recursive: true });
  });
  const resources = (...specs: WorkloadSpec[]): Resource[] =>
    specs.map((value) => create(ResourceSchema, { kind: { case: "workload", value } }));
  const kindOf = (work: () => unknown): string | undefined => {
    try {
      work();
    } catch (error) {
      return error instanceof CapsuleError ? error.kind : String(error);
    }
    return undefined;
  };

  it("creates, leaves alone, updates; a dry run does the same and keeps nothing", () => {
    assert.equal(manager.apply(resources(spec()), true)[0]?.action, ApplyResult_Action.CREATED);
    assert.equal(store.workloads.get("web"), undefined);
    assert.equal(manager.apply(resources(spec()), false)[0]?.generation, 1);
    assert.equal(manager.apply(resources(spec()), false)[0]?.action, ApplyResult_Action.UNCHANGED);
    assert.equal(manager.apply(resources(spec({ args: ["x"] })), false)[0]?.generation, 2);
  });

  it("applies all or nothing, and names the holder of a port", () => {
    const port = (name: string) => spec({ ports: [{ containerPort: 80 }] }, name);
    manager.apply(resources(port("first")), false);
    assert.throws(() => manager.apply(resources(spec({}, "other"), port("second")), false), /workload "first"/);
    assert.equal(store.workloads.get("other"), undefined);
  });

  it("refuses the same name twice, a deleting one, and an unknown one", () => {
    assert.equal(
      kindOf(() => manager.apply(resources(spec(), spec()), false)),
      "invalid",
    );
    assert.equal(
      kindOf(() => manager.delete(["web"])),
      "notFound",
    );
    manager.apply(resources(spec()), false);
    manager.delete(["web"]);
    assert.equal(
      kindOf(() => manager.apply(resources(spec()), false)),
      "conflict",
    );
    assert.equal(
      kindOf(() => manager.start("web")),
      "conflict",
    );
    assert.equal(
      kindOf(() => manager.stop("nobody")),
      "notFound",
    );
  });

  describe("volumes", () => {
    const GiB = 1024n ** 3n;
    const volume = (name: string, sizeBytes = GiB): Resource =>
      create(ResourceSchema, { kind: { case: "volume", value: { name, sizeBytes } } });
    const user = (name: string, volumeName: string, readOnly = false): Resource[] =>
      resources(spec({ mounts: [{ volumeName, mountPath: "/data", readOnly }] }, name));

    it("come with the workloads that mount them, whatever their order in the file", () => {
      const [first, second] = manager.apply([...user("web", "data"), volume("data")], false);
      assert.deepEqual([first?.kind, second?.kind], ["workload", "volume"]);
      assert.equal(manager.apply([volume("data")], false)[0]?.action, ApplyResult_Action.UNCHANGED);
    });

    it("must exist, and nothing is applied when one does not", () => {
      assert.throws(() => manager.apply(user("web", "absent"), false), /No volume has the name "absent"/);
      assert.equal(store.workloads.get("web"), undefined);
    });

    it("have one mounter, who is named, or several that only read", () => {
      manager.apply([volume("data"), ...user("web", "data")], false);
      assert.throws(() => manager.apply(user("other", "data"), false), /held by workload "web"/);
      assert.throws(() => manager.apply(user("other", "data", true), false), /held by workload "web"/);
      manager.apply(user("web", "data", true), false);
      manager.apply(user("other", "data", true), false);
      assert.throws(
        () => manager.apply(user("third", "data"), false),
        /held by workload "other", which mounts it to read/,
      );
    });

    it("go from one workload of a file to another in one apply", () => {
      manager.apply([volume("data"), volume("more"), ...user("a", "data"), ...user("b", "more")], false);
      manager.apply([...user("a", "more"), ...user("b", "data")], false);
      assert.deepEqual(
        ["data", "more"].map((name) => store.volumeClaims.users(name).map((one) => one.name)),
        [["b"], ["a"]],
      );
    });

    it("grow and do not shrink, and stay in their pool", () => {
      manager.apply([volume("data")], false);
      assert.equal(manager.apply([volume("data", 2n * GiB)], false)[0]?.action, ApplyResult_Action.UPDATED);
      assert.throws(() => manager.apply([volume("data", GiB)], false), /does not shrink/);
      for (const size of [0n, 1n, 2n ** 63n])
        assert.equal(
          kindOf(() => volumes.resize("data", size)),
          "invalid",
        );
    });

    it("are deleted when nobody mounts them, or by force, which stops who does", () => {
      manager.apply([volume("data"), ...user("web", "data")], false);
      assert.throws(() => volumes.delete(["data"]), /mounted by workload "web"/);
      volumes.delete(["data"], { force: true });
      assert.equal(store.workloads.get("web")?.desired, "stopped");
      assert.equal(
        kindOf(() => manager.apply([volume("data")], false)),
        "conflict",
      );
      assert.equal(
        kindOf(() => volumes.delete(["data", "absent"], { force: true })),
        "notFound",
      );
    });
  });
});
