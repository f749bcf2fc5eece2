import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CapsuleError } from "../errors.ts";
import { compile, type LinkedWorkload, type NetworkState, type PortMap } from "./firewall.ts";

const empty: NetworkState = {
  bridge: "capsule0",
  uplink: "eth0",
  cidr4: "10.64.0.0/20",
  cidr6: "fd00:1:2::/64",
  workloads: [],
};

function workload(n: number, ...ports: Partial<PortMap>[]): LinkedWorkload {
  const defaults: PortMap = { protocol: "tcp", hostPort: 8080, containerPort: 80, hostAddress: "" };
  return {
    uid: `waaaaaaaaaaa${"abcdefgh"[n]}`,
    ipv4: `10.64.0.${n + 2}`,
    ipv6: `fd00:1:2::${n + 2}`,
    ports: ports.map((port) => ({ ...defaults, ...port })),
  };
}

const rules = (...workloads: LinkedWorkload[]) => compile({ ...empty, workloads });

describe("the compiled firewall", () => {
  it("replaces its own tables, whether they are there or not, and names no other", () => {
    const tables = [...rules(workload(0)).matchAll(/^(?:add |delete )?table .*$/gm)].map(([line]) => line);
    assert.deepEqual(tables, [
      "add table inet capsule",
      "delete table inet capsule",
      "add table bridge capsule",
      "delete table bridge capsule",
      "table inet capsule {",
      "table bridge capsule {",
    ]);
  });

  it("is the same for the same state in another order", () => {
    const a = workload(0, { hostPort: 1 }, { hostPort: 2 });
    const b = workload(1, { hostPort: 3 });
    assert.equal(rules(a, b), rules(b, { ...a, ports: [...a.ports].reverse() }));
  });

  it("maps a port of every address for both families", () => {
    const text = rules(workload(0, { protocol: "udp", hostPort: 53, containerPort: 5353 }));
    assert.match(text, /udp \. 53 : 10\.64\.0\.2 \. 5353,/);
    assert.match(text, /udp \. 53 : fd00:1:2::2 \. 5353,/);
  });

  it("maps a port of one address, or of one family, for that alone", () => {
    const one = rules(workload(0, { hostAddress: "192.0.2.1" }));
    assert.match(one, /192\.0\.2\.1 \. tcp \. 8080 : 10\.64\.0\.2 \. 80,/);
    assert.doesNotMatch(one, /^ *tcp \. 8080/m);
    assert.doesNotMatch(rules(workload(0, { hostAddress: "0.0.0.0" })), /: fd00/);
    assert.doesNotMatch(rules(workload(0, { hostAddress: "::" })), /8080 : 10\./);
  });

  it("masquerades the workload subnets by the uplink, and nothing where there is none", () => {
    assert.match(rules(), /oifname "eth0" ip saddr 10\.64\.0\.0\/20 masquerade/);
    assert.match(rules(), /oifname "eth0" ip6 saddr fd00:1:2::\/64 masquerade/);
    assert.doesNotMatch(compile({ ...empty, uplink: undefined }), /saddr (10|fd).* masquerade/);
  });

  it("takes no multicast DNS from workloads, and takes it from every other link", () => {
    const input = /chain input \{[^}]*\}/.exec(rules(workload(0)))?.[0] ?? "";
    assert.match(input, /hook input priority filter; policy accept;/);
    assert.deepEqual(
      input.match(/.*udp dport.*/g)?.map((line) => line.trim()),
      ['iifname "capsule0" udp dport 5353 drop'],
    );
  });

  it("ties link, MAC and address of a workload together", () => {
    const text = rules(workload(0));
    assert.match(text, /"c-waaaaaaaaaaaa" \. 02:ca:0a:40:00:02 \. 10\.64\.0\.2,/);
    assert.match(text, /"c-waaaaaaaaaaaa" \. 02:ca:0a:40:00:02 \. fe80::ca:aff:fe40:2,/);
    assert.match(text, /0xfd000001000200000000000000000002, 0xfe8000000000000000ca0afffe400002/);
  });

  it("refuses one port twice, also when an IPv6 address is spelled in two ways", () => {
    const conflict = (error: unknown) => error instanceof CapsuleError && error.kind === "conflict";
    assert.throws(() => rules(workload(0, {}), workload(1, {})), conflict);
    const spelled = [workload(0, { hostAddress: "fd01::1" }), workload(1, { hostAddress: "fd01:0:0::1" })];
    assert.throws(() => rules(...spelled), conflict);
  });

  it("takes no value that could become a rule", () => {
    assert.throws(() => compile({ ...empty, uplink: 'eth0" accept' }), CapsuleError);
    assert.throws(() => compile({ ...empty, cidr4: "10.0.0.0/8 accept" }), CapsuleError);
    assert.throws(() => rules(workload(0, { hostAddress: "fe80::1%}" })), CapsuleError);
    assert.throws(() => rules(workload(0, { hostPort: 0 })), CapsuleError);
    assert.throws(() => rules({ ...workload(0), uid: "x y" }), CapsuleError);
    assert.throws(() => rules({ ...workload(0), ipv6: "::1 ; drop" }), CapsuleError);
  });
});
