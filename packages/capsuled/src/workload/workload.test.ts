import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create, fromJson, type JsonObject } from "@bufbuild/protobuf";
import { ApplyResult_Action, type Resource, ResourceSchema, type WorkloadSpec, WorkloadSpecSchema } from "@capsule/api";
import { CapsuleError } from "../errors.ts";
import { normalizeReference } from "../runtime/container/reference.ts";
import { Store } from "../store/store.ts";
import { diffSpecs } from "./diff.ts";
import { WorkloadManager } from "./manager.ts";
import { validateWorkload } from "./validate.ts";

const spec = (container: JsonObject = {}, name = "web"): WorkloadSpec =>
  fromJson(WorkloadSpecSchema, { name, container: { image: "x", ...container } });
const paths = (container: JsonObject, name = "web"): string[] =>
  validateWorkload(spec(container, name)).map(({ path }) => path);

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
      [{ mounts: [{ volumeName: "v", mountPath: "/v" }] }, "container.mounts"],
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

describe("apply", () => {
  let dir: string;
  let store: Store;
  let manager: WorkloadManager;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "capsule-manager-"));
    store = new Store(join(dir, "state.db"));
    manager = new WorkloadManager({ store, images: { normalize: normalizeReference }, allocate: () => undefined });
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
});
