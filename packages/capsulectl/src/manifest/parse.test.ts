import assert from "node:assert/strict";
import { test } from "node:test";
import { BondMode, NetworkMode, Protocol, RestartPolicy } from "@capsule/api";
import { isMachine, isResource, parseManifests, placeViolations } from "./parse.ts";
import { ManifestError } from "./problems.ts";

const parse = (text: string) => parseManifests([{ name: "a.yaml", text }]);

function faults(text: string): string[] {
  try {
    parse(text);
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error;
    return error.problems.map(({ file, line, column, message }) => `${file}:${line}:${column}: ${message}`);
  }
  return [];
}

const container = (fields: string): string => `kind: Container\nname: web\ncontainer:\n  image: x\n${fields}\n`;

test("every form of the interface's example", () => {
  const [document] = parse(`kind: Container
name: web
labels: {tier: front}
container:
  image: registry.example/web:1.2
  command: ["/app"]
  args: ["--listen", ":80"]
  env: [{name: TZ, value: UTC}]
  networkMode: network_mode_bridge
  ports: [{containerPort: 80, hostPort: 8080, protocol: tcp}]
  resources: {cpuMillis: 500, memoryMib: 256, pidsMax: 100}
  restartPolicy: on_failure
  stopTimeout: 1m30s
  logs: {maxBytes: 5MiB}
  sysctls: {net.core.somaxconn: "1024"}
`);
  assert.ok(document !== undefined && isResource(document) && document.resource.kind.case === "workload");
  const { kind, labels } = document.resource.kind.value;
  assert.deepEqual({ ...labels }, { tier: "front" });
  assert.ok(kind.case === "container");
  const spec = kind.value;
  assert.equal(spec.networkMode, NetworkMode.BRIDGE);
  assert.equal(spec.restartPolicy, RestartPolicy.ON_FAILURE);
  assert.equal(spec.ports[0]?.protocol, Protocol.TCP);
  assert.equal(spec.stopTimeout?.seconds, 90n);
  assert.equal(spec.logs?.maxBytes, 5n * 1024n * 1024n);
  assert.equal(spec.sysctls["net.core.somaxconn"], "1024");
});

test("sizes of volumes: K M G T are binary, plain digits are bytes", () => {
  const size = (text: string): bigint => {
    const [document] = parse(`kind: Volume\nname: v\nsize: ${text}\n`);
    assert.ok(document !== undefined && isResource(document) && document.resource.kind.case === "volume");
    return document.resource.kind.value.sizeBytes;
  };
  assert.equal(size("2GiB"), 2n << 30n);
  assert.equal(size("2G"), 2n << 30n);
  assert.equal(size("1.5 MB"), 1_572_864n);
  assert.equal(size("4096"), 4_096n);
  assert.equal(size("18446744073709551615"), 2n ** 64n - 1n);
  for (const bad of ["two", "-1", "1.5", "1X", "18446744073709551616", "[]"]) {
    assert.notDeepEqual(faults(`kind: Volume\nname: v\nsize: ${bad}\n`), [], bad);
  }
});

test("faults have file, line and column, and all are told at once", () => {
  assert.deepEqual(faults(container("  ports:\n    - {containerPort: http}\n  colour: red")), [
    'a.yaml:6:23: container.ports[0].containerPort: a whole number is needed, not the text "http"',
    'a.yaml:7:3: unknown field "container.colour": there are image, command, args, env, workingDir, user, hostname, networkMode, ports, mounts, resources, restartPolicy, stopTimeout, stopSignal, imagePullPolicy, probes, dependsOn, devices, secrets, allowFrom, allowTo, dns, logs, job, capabilities, readOnlyRoot, sysctls, userNamespace, privileged, tmpfs, shmMib, init',
  ]);
  assert.match(faults(container("  comand: [x]"))[0] ?? "", /a\.yaml:5:3: .*did you mean "command"/);
  assert.match(faults(container("  env: [{name: A, value: 1}]"))[0] ?? "", /a\.yaml:5:26: .*put it in quotes/);
  assert.match(faults(container("  command: /app"))[0] ?? "", /a\.yaml:5:12: container\.command: a list is needed/);
  assert.match(faults(container("  ports: [{containerPort: 4294967296}]"))[0] ?? "", /out of range/);
  assert.match(faults(container("  readOnlyRoot: yes"))[0] ?? "", /true or false/);
  assert.match(faults(container("  networkMode: NAT"))[0] ?? "", /"NAT" is none of BRIDGE, HOST, NONE/);
  assert.match(faults(container("  stopTimeout: soon"))[0] ?? "", /a duration such as 30s/);
});

test("what is wrong with a document as a whole", () => {
  assert.match(faults("name: x\n")[0] ?? "", /a\.yaml:1:1: `kind:` is missing/);
  assert.match(faults("kind: Container\ncontainer: {image: x}\n")[0] ?? "", /`name:` is missing/);
  assert.match(faults("kind: Container\nname: x\n")[0] ?? "", /`container:` is missing/);
  assert.match(faults("kind: container\nname: x\n")[0] ?? "", /did you mean Container/);
  assert.match(faults("kind: Container\nname: x\nmicroVm: {image: y}\n")[0] ?? "", /not `microVm:`/);
  assert.match(faults("- a\n- b\n")[0] ?? "", /a document has/);
  assert.match(faults("kind: Container\nname: [\n")[0] ?? "", /^a\.yaml:\d+:\d+: /);
  assert.match(
    faults(`${container("")}---\n${container("")}`)[0] ?? "",
    /a\.yaml:8:7: workload "web" is there already, in a\.yaml:2/,
  );
  assert.match(faults("kind: Container\nname: x\nname: y\n")[0] ?? "", /a\.yaml:3:1: Map keys must be unique/);
});

test("hostile files are refused in no time: aliases, garbage, depth", () => {
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nkind: Container\nname: x\ncontainer: {image: x, args: *c}\n`;
  assert.notDeepEqual(faults(bomb), []);
  assert.notDeepEqual(faults(`kind: Container\nname: x\ncontainer: ${"[".repeat(2_000)}`), []);
  assert.notDeepEqual(faults("\u0000\u0001\u0002"), []);
  assert.ok(faults("x\n".repeat(10_000)).length <= 20);
  assert.deepEqual(faults(""), []);
});

test("faults that the capsule found are told at their places", () => {
  const documents = parse(
    `${container("  ports:\n    - {containerPort: 80}\n    - {containerPort: 81, hostPort: 9}")}`,
  );
  const error = placeViolations(documents, [
    { path: "resources[0].container.ports[1].hostPort", description: "taken" },
    { path: "resources[0].container.ports[0].hostPort", description: "not there, so its port" },
    { path: "resources[0].name", description: "bad" },
  ]);
  assert.deepEqual(
    error?.problems.map(({ line, column }) => [line, column]),
    [
      [7, 37],
      [6, 7],
      [2, 7],
    ],
  );
});

test("a machine: one for a capsule, whose name is its host name", () => {
  const machine = (text: string) => {
    const document = parse(text).find(isMachine);
    assert.ok(document !== undefined);
    return document.machine;
  };
  const full = machine(`kind: Machine
name: nuc-1
links:
  - {name: lan, match: {mac: "52:54:00:12:34:56"}, addresses: [192.0.2.10/24], gateway: 192.0.2.1, acceptRa: false}
  - {name: bond0, bond: {links: [eth1, eth2], mode: lacp}}
registries: [{host: docker.io, mirrors: ["https://mirror.example"], password: ""}]
updates: {autoConfirm: 2m}
`);
  assert.equal(full.hostname, "nuc-1");
  assert.deepEqual([full.links[0]?.acceptRa, full.links[0]?.dhcp], [false, false]);
  assert.equal(full.links[1]?.bond?.mode, BondMode.LACP);
  assert.equal(full.registries[0]?.password, "");
  assert.equal(full.updates?.autoConfirm?.seconds, 120n);
  assert.equal(machine("kind: Machine\n").hostname, "");
  assert.equal(machine("kind: Machine\nname: a\nhostname: a\n").hostname, "a");
  assert.match(
    faults("kind: Machine\nname: a\nhostname: b\n")[0] ?? "",
    /a\.yaml:2:7: name: "a" is not the host name, "b"/,
  );
  assert.match(faults("kind: Machine\nname: 7\n")[0] ?? "", /a\.yaml:2:7: name: a text is needed/);
  assert.match(
    faults("kind: Machine\nname: a\n---\nkind: Machine\nname: b\n")[0] ?? "",
    /a\.yaml:4:1: a Machine is there already, in a\.yaml:1: a capsule has one/,
  );
  assert.match(faults("kind: Machine\nlinks: [{name: eth0, adresses: []}]\n")[0] ?? "", /did you mean "addresses"/);
});

test("faults of a machine are told at their places, beside those of resources", () => {
  const documents = parse(
    `${container("")}---\nkind: Machine\nname: a\nlinks:\n  - name: eth0\n    gateway: 192.0.2.1\n`,
  );
  const error = placeViolations(documents, [
    { path: "machine.links[0].gateway", description: "in no subnet" },
    { path: "machine.hostname", description: "taken" },
    { path: "machine.dns", description: "not there, so its document" },
    { path: "resources[0].name", description: "bad" },
    { path: "confirmWithin", description: "of no document" },
  ]);
  assert.deepEqual(
    error?.problems.map(({ line, column }) => [line, column]),
    [
      [11, 14],
      [8, 7],
      [7, 1],
      [2, 7],
    ],
  );
});
