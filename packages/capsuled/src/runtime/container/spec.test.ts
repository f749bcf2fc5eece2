import assert from "node:assert/strict";
import { test } from "node:test";
import { CapsuleError } from "../../errors.ts";
import type { Instance } from "../instance.ts";
import { capabilitiesIn, capabilitiesOf } from "./capabilities.ts";
import { chainId, type ImageConfig } from "./image-config.ts";
import { signalNumber } from "./signals.ts";
import { commandOf, environment, idRangeOf, specOf } from "./spec.ts";
import { resolveUser, root } from "./users.ts";

const image: ImageConfig = {
  platform: "linux/amd64",
  entrypoint: ["/entry"],
  cmd: ["default"],
  env: ["PATH=/bin", "A=image"],
  user: "",
  workingDir: "/work",
  stopSignal: undefined,
  chainId: "",
  sizeBytes: 0n,
};

function instance(change: Partial<Instance> = {}, container: Partial<Instance["container"]> = {}): Instance {
  return {
    uid: "wabcdefghijkl",
    name: "web",
    generation: 1,
    image: { reference: "docker.io/library/x:1", digest: "sha256:0" },
    command: [],
    args: [],
    env: new Map(),
    workingDir: undefined,
    user: undefined,
    hostname: "web",
    network: "bridge",
    limits: { cpuMillis: 0, memoryBytes: 0, pidsMax: 0 },
    stopSignal: undefined,
    files: new Map(),
    mounts: [],
    logs: { dir: "/logs", maxBytes: 1, maxFiles: 1 },
    ...change,
    container: {
      addCapabilities: [],
      dropCapabilities: [],
      readOnlyRoot: false,
      sysctls: new Map(),
      userNamespace: false,
      privileged: false,
      tmpfs: [],
      shmBytes: 1024,
      sharesMachine: false,
      init: false,
      ...container,
    },
  };
}

/** The parts of a specification that tests look at. */
interface Spec {
  readonly process: { cwd: string; capabilities: Record<string, string[]>; user: { uid: number } };
  readonly root: { readonly: boolean };
  readonly hostname?: string;
  readonly mounts: { destination: string; type: string; source: string; options: string[] }[];
  readonly linux: {
    namespaces: { type: string }[];
    resources: Record<string, unknown>;
    seccomp?: { syscalls: { names: string[] }[] };
    maskedPaths?: string[];
    rootfsPropagation?: string;
    uidMappings?: { hostID: number }[];
  };
}
const specFor = (made: Instance, user = root): Spec =>
  specOf(made, image, user, made.container.userNamespace ? idRangeOf(made.uid) : undefined) as unknown as Spec;

test("command and arguments replace those of the image as docker's do", () => {
  assert.deepEqual(commandOf(instance(), image), ["/entry", "default"]);
  assert.deepEqual(commandOf(instance({ args: ["a"] }), image), ["/entry", "a"]);
  assert.deepEqual(commandOf(instance({ command: ["c"] }), image), ["c"]);
  assert.deepEqual(commandOf(instance({ command: ["c"], args: ["a"] }), image), ["c", "a"]);
  assert.throws(() => commandOf(instance(), { ...image, entrypoint: [], cmd: [] }), /says no command/);
});

test("the environment: defaults, the image's, its own", () => {
  assert.deepEqual(environment(image.env, new Map([["A", "own"]]), root), ["PATH=/bin", "HOME=/root", "A=own"]);
  assert.match(environment([], new Map(), root).join(), /^PATH=\/usr\/local\/sbin/);
});

test("capabilities: docker's set, added, dropped, all", () => {
  const of = (addCapabilities: string[], dropCapabilities: string[], privileged = false) =>
    capabilitiesOf({ addCapabilities, dropCapabilities, privileged });
  assert.equal(of([], []).length, 14);
  assert.ok(of(["net_admin"], []).includes("CAP_NET_ADMIN"));
  assert.ok(!of([], ["CAP_CHOWN"]).includes("CAP_CHOWN"));
  assert.deepEqual(of(["CHOWN"], ["ALL"]), ["CAP_CHOWN"]);
  assert.ok(!of(["ALL"], ["SYS_ADMIN"]).includes("CAP_SYS_ADMIN"));
  const everything = capabilitiesIn(2n ** 41n - 1n);
  assert.equal(everything.length, 41);
  // Of a machine that may not set limits, as this one may be.
  assert.deepEqual(
    everything.filter((name) => !capabilitiesIn(2n ** 41n - 1n - 2n ** 24n).includes(name)),
    ["CAP_SYS_RESOURCE"],
  );
  const privileged = of([], ["ALL"], true);
  assert.ok(privileged.length > 14 && privileged.every((name) => everything.includes(name)));
  assert.throws(
    () => of(["FLY"], []),
    (error) => error instanceof CapsuleError && error.kind === "invalid",
  );
});

test("an instance that shares the machine has its namespaces and mounts, as they come and go", () => {
  const { mounts, linux } = specFor(
    instance(
      { network: "host" },
      { privileged: true, sharesMachine: true, tmpfs: [{ target: "/tmp", sizeBytes: 1024 }] },
    ),
  );
  assert.deepEqual(linux.namespaces, [{ type: "mount" }]);
  assert.equal(linux.rootfsPropagation, "rslave");
  const binds = mounts.filter(({ type }) => type === "bind");
  assert.deepEqual(
    binds.map(({ source, destination }) => `${source} ${destination}`),
    ["/dev /dev", "/sys /sys", "/ /host", "/perm /perm", "/run /run"],
  );
  for (const { options } of binds) assert.deepEqual(options, ["rbind", "rslave", "rw"]);
  assert.equal(mounts.at(-1)?.destination, "/tmp");
  assert.equal(specFor(instance()).linux.rootfsPropagation, undefined);
});

test("what a container may not do, and what privileged lifts", () => {
  const plain = specFor(instance());
  assert.ok(plain.linux.seccomp?.syscalls[0]?.names.includes("kexec_load"));
  assert.ok(plain.linux.maskedPaths?.includes("/proc/kcore"));
  const privileged = specFor(instance({}, { privileged: true }));
  assert.equal(privileged.linux.seccomp, undefined);
  assert.equal(privileged.linux.maskedPaths, undefined);
  const admin = specFor(instance({}, { addCapabilities: ["SYS_ADMIN"] }));
  assert.ok(!admin.linux.seccomp?.syscalls[0]?.names.includes("mount"));
  assert.deepEqual(specFor(instance(), { ...root, uid: 5 }).process.capabilities["effective"], []);
});

test("namespaces follow network and user namespace", () => {
  const types = (made: Instance) => specFor(made).linux.namespaces.map(({ type }) => type);
  assert.ok(types(instance()).includes("network"));
  assert.ok(!types(instance({ network: "host" })).includes("network"));
  assert.ok(!types(instance({ network: "host" })).includes("uts"));
  assert.ok(types(instance({}, { userNamespace: true })).includes("user"));
  assert.ok((specFor(instance({}, { userNamespace: true })).linux.uidMappings?.[0]?.hostID ?? 0) >= 100_000_000);
});

test("limits, only those that are set", () => {
  const { resources } = specFor(instance({ limits: { cpuMillis: 250, memoryBytes: 64, pidsMax: 9 } })).linux;
  assert.deepEqual(resources["cpu"], { quota: 25_000, period: 100_000 });
  assert.deepEqual(resources["memory"], { limit: 64 });
  assert.deepEqual(resources["pids"], { limit: 9 });
  assert.deepEqual(Object.keys(specFor(instance()).linux.resources), ["devices"]);
});

test("users by the image's own files", async () => {
  const files: Record<string, string> = {
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\nbroken\n",
    "/etc/group": "web:x:1001:\naudio:x:29:web,other\nstaff:x:50:\n",
  };
  const user = (text: string) => resolveUser(text, async (path) => files[path]);
  assert.deepEqual(await user(""), root);
  assert.deepEqual(await user("web"), { uid: 1000, gid: 1001, additionalGids: [29], home: "/srv" });
  assert.deepEqual(await user("1000"), { uid: 1000, gid: 1001, additionalGids: [29], home: "/srv" });
  assert.deepEqual(await user("web:staff"), { uid: 1000, gid: 50, additionalGids: [], home: "/srv" });
  assert.deepEqual(await user("77:88"), { uid: 77, gid: 88, additionalGids: [], home: "/" });
  await assert.rejects(user("nobody"), /no user "nobody"/);
  await assert.rejects(user("web:none"), /no group "none"/);
  await assert.rejects(user("99999999999"), /no user/);
  assert.deepEqual(await resolveUser("5", async () => undefined), { uid: 5, gid: 0, additionalGids: [], home: "/" });
});

test("signals by name and number", () => {
  assert.equal(signalNumber("SIGTERM"), 15);
  assert.equal(signalNumber("kill"), 9);
  assert.equal(signalNumber("15"), 15);
  assert.equal(signalNumber("SIGRTMIN+3"), 37);
  assert.equal(signalNumber("RTMAX-1"), 63);
  for (const bad of ["", "0", "65", "SIGNOPE", "RTMIN+99"]) assert.throws(() => signalNumber(bad), bad);
});

test("the chain id of layers", () => {
  assert.equal(chainId(["sha256:a"]), "sha256:a");
  // printf 'sha256:a sha256:b' | sha256sum
  assert.equal(
    chainId(["sha256:a", "sha256:b"]),
    "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8",
  );
});
