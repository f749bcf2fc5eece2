import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { create, toJsonString } from "@bufbuild/protobuf";
import { MachineSpecSchema, RegistrySchema, WorkloadSpecSchema } from "@capsule/api";
import { mark } from "./patterns.ts";
import { machineWithoutSecrets, registryWithoutSecrets, secretsOf, specWithoutSecrets } from "./secrets.ts";

const env = [
  { name: "DB_PASSWORD", value: "correct-horse" },
  { name: "MODE", value: "production" },
  { name: "DSN", value: "user=x battery staple" },
  { name: "EMPTY", value: "" },
  { name: "PIN_TOKEN", value: "swordfish" },
];
const run = {
  env,
  command: ["/app", "--password", "argument-1"],
  args: ["-c", "API_TOKEN=argument-2 run", "plain"],
  probes: [
    { check: { case: "http" as const, value: { headers: [{ name: "Authorization", value: "Basic header-1" }] } } },
    { check: { case: "exec" as const, value: { command: ["test", "--token=argument-3"] } } },
  ],
};
const container = create(WorkloadSpecSchema, { name: "web", kind: { case: "container", value: run } });
const microVm = create(WorkloadSpecSchema, {
  name: "vm",
  kind: { case: "microVm", value: { ...run, kernelArgs: "quiet luks.passphrase=kernel-1 ro" } },
});
const planted = ["correct-horse", "battery", "swordfish", "argument-1", "argument-2", "argument-3", "header-1"];

describe("specWithoutSecrets", () => {
  for (const spec of [container, microVm])
    it(`${spec.kind.case}: names stay, values go`, () => {
      const shown = specWithoutSecrets(spec);
      const text = toJsonString(WorkloadSpecSchema, shown);
      for (const word of [...planted, "production", "kernel-1"]) assert.ok(!text.includes(word), `${word}: ${text}`);
      assert.deepEqual(
        shown.kind.value?.env.map(({ name, value }) => [name, value]),
        env.map(({ name, value }) => [name, value === "" ? "" : mark]),
      );
      assert.deepEqual(shown.kind.value?.command, ["/app", "--password", mark]);
      assert.deepEqual(shown.kind.value?.args, ["-c", `API_TOKEN=${mark} run`, "plain"]);
      assert.equal(spec.kind.value?.env[0]?.value, "correct-horse", "the spec itself is untouched");
    });
});

describe("secretsOf", () => {
  it("is all that an operator wrote, but plain words under plain names", () => {
    const registry = { host: "r.example", username: "anna", password: "pass-of-registry" };
    const found = secretsOf({
      workloads: { list: () => [{ spec: container }, { spec: microVm }] },
      registries: { list: () => [registry] },
    } as unknown as Parameters<typeof secretsOf>[0]);
    for (const value of [
      ...["correct-horse", "user=x battery staple", "swordfish", "argument-1", "argument-2", "kernel-1"],
      ...["Basic header-1", "pass-of-registry", Buffer.from("anna:pass-of-registry").toString("base64")],
    ])
      assert.ok(found.includes(value), `${value}: ${found.join(" | ")}`);
    assert.ok(!found.includes("production"));
    assert.ok(!found.includes("plain"));
  });
});

it("machineWithoutSecrets", () => {
  const registries = [{ host: "registry.example", username: "robot", password: "a-password" }];
  const shown = machineWithoutSecrets(create(MachineSpecSchema, { hostname: "nuc", registries }));
  assert.deepEqual(
    shown.registries.map(({ host, username, password }) => [host, username, password]),
    [["registry.example", "<redacted>", undefined]],
  );
  assert.equal(shown.hostname, "nuc");
});

it("registryWithoutSecrets", () => {
  const registry = create(RegistrySchema, { host: "r.example", username: "anna", hasPassword: true });
  const shown = registryWithoutSecrets(registry);
  assert.deepEqual([shown.host, shown.username, shown.hasPassword], ["r.example", mark, true]);
});
