import assert from "node:assert/strict";
import { test } from "node:test";
import type { JsonValue } from "@bufbuild/protobuf";
import { aMachine } from "./spec.test-support.ts";
import { validateMachine } from "./validate.ts";

const facts = { isNamespace: false, workloadSubnets: ["10.89.0.0/20", "fd00:1::/64"] };

/** PATH: DESCRIPTION of each fault. */
function faults(machine: JsonValue, isNamespace = false): string[] {
  return validateMachine(aMachine(machine), { ...facts, isNamespace }).map(
    ({ path, description }) => `${path}: ${description}`,
  );
}

const links = (...all: JsonValue[]): string[] => faults({ links: all });
const eth0 = { name: "eth0", addresses: ["192.0.2.10/24"] };

test("what is right", () => {
  assert.deepEqual(faults({}), []);
  assert.deepEqual(
    faults({
      hostname: "nuc-1",
      links: [
        { name: "eth0", addresses: ["192.0.2.10/24", "2001:db8::10/64"], gateway: "192.0.2.1", gateway6: "fe80::1" },
        { name: "lan", match: { mac: "52:54:00:12:34:56" }, dhcp: true, addresses: ["2001:db8:2::10/64"], mtu: 9000 },
        { name: "vlan7", vlan: { link: "lan", id: 7 }, addresses: ["198.51.100.1/31"] },
        { name: "vlan7.8", vlan: { link: "vlan7", id: 8 }, acceptRa: true },
        { name: "eth2" },
        { name: "eth3" },
        { name: "bond0", bond: { links: ["eth2", "eth3"], primary: "eth2" }, addresses: ["203.0.113.1/24"] },
        { name: "storage", vlan: { link: "bond0", id: 4094 }, addresses: ["10.1.0.1/16"] },
      ],
      dns: { servers: ["192.0.2.53", "2001:db8::53"], search: ["lan.example", "local"] },
      ntp: { servers: ["ntp.example", "192.0.2.123"] },
      registries: [{ host: "docker.io", mirrors: ["https://mirror.example"], username: "u", password: "p" }],
      console: { notice: "Rack 4\nops@example.com", showLogs: false },
      updates: { autoConfirm: "120s", confirmWithin: "600s" },
    }),
    [],
  );
});

test("names and hardware addresses of links", () => {
  assert.match(links({ ...eth0, name: "a b" })[0] ?? "", /links\[0\]\.name: "a b" is no name of a link/);
  assert.match(links({ ...eth0, name: "sixteen-letters-" })[0] ?? "", /no name of a link/);
  for (const name of ["lo", "capsule0", "c-wabcdefghijkl"])
    assert.match(links({ ...eth0, name })[0] ?? "", /is the capsule's own/);
  assert.match(links(eth0, { name: "eth0" })[0] ?? "", /links\[1\]\.name: link "eth0" is there already, as links\[0\]/);
  assert.match(links({ ...eth0, match: { mac: "52:54" } })[0] ?? "", /links\[0\]\.match\.mac: "52:54" is no address/);
  const mac = "52:54:00:12:34:56";
  assert.match(
    links({ ...eth0, match: { mac } }, { name: "b", match: { mac: mac.toUpperCase() } })[0] ?? "",
    /link "eth0" has the same/,
  );
  assert.match(
    links(eth0, { name: "v", match: { mac }, vlan: { link: "eth0", id: 1 } })[0] ?? "",
    /links\[1\]\.match: a link that is made/,
  );
});

test("addresses: what is none, nobody's, another link's or the workloads'", () => {
  const address = (text: string): string => links({ name: "eth0", addresses: [text] })[0] ?? "";
  for (const text of [
    "192.0.2.10",
    "192.0.2.256/24",
    "192.0.2.1/33",
    "::1/129",
    "192.0.2.1/0",
    "fe80::1%eth0/64",
    "x",
    "01.2.3.4/8",
  ])
    assert.match(address(text), /^machine\.links\[0\]\.addresses\[0\]: ".*" is no address with its prefix/, text);
  for (const text of ["192.0.2.0/24", "192.0.2.255/24", "10.0.0.0/8"])
    assert.match(address(text), /subnet itself/, text);
  for (const text of ["127.0.0.2/8", "224.0.0.5/24", "::1/128", "ff02::5/64", "fe80::5/64", "0.0.0.5/8"])
    assert.match(address(text), /cannot be the address of a link/, text);
  assert.match(address("10.89.4.1/24"), /overlaps that of the workloads, 10\.89\.0\.0\/20/);
  assert.match(address("10.0.0.1/8"), /overlaps that of the workloads/);
  assert.match(address("fd00:1::5/64"), /overlaps that of the workloads/);
  assert.match(
    links(eth0, { name: "eth1", addresses: ["192.0.2.11/25"] })[0] ?? "",
    /links\[1\]\.addresses\[0\]: its subnet overlaps that of 192\.0\.2\.10\/24 on link "eth0"/,
  );
  assert.match(
    links(eth0, { name: "eth1", addresses: ["192.0.2.10/24"] })[0] ?? "",
    /is there already, on link "eth0"/,
  );
  assert.match(
    links({ name: "a", addresses: ["2001:db8::1/64", "2001:0db8:0::1/64"] })[0] ?? "",
    /addresses\[1\]: 2001:db8::1 is there already/,
  );
  assert.match(links({ ...eth0, dhcp: true })[0] ?? "", /IPv4 comes by DHCP here/);
});

test("gateways: in a subnet of their link, one of each family", () => {
  const gateway = (fields: Record<string, JsonValue>): string => links({ ...eth0, ...fields })[0] ?? "";
  assert.match(gateway({ gateway: "192.0.3.1" }), /links\[0\]\.gateway: 192\.0\.3\.1 is in no subnet/);
  assert.match(gateway({ gateway: "192.0.2.10" }), /is an address of the link itself/);
  assert.match(gateway({ gateway: "2001:db8::1" }), /is no IPv4 address/);
  assert.match(gateway({ gateway6: "2001:db8::1" }), /links\[0\]\.gateway6: .* in no subnet/);
  assert.match(links({ name: "a", dhcp: true, gateway: "192.0.2.1" })[0] ?? "", /it comes by DHCP here/);
  assert.match(
    links({ ...eth0, gateway: "192.0.2.1" }, { name: "b", addresses: ["10.0.0.2/24"], gateway: "10.0.0.1" })[0] ?? "",
    /links\[1\]\.gateway: link "eth0" has one already/,
  );
});

test("MTU", () => {
  assert.match(links({ ...eth0, mtu: 575 })[0] ?? "", /575 is out of range: 576 to 65535/);
  assert.match(links({ name: "a", addresses: ["2001:db8::1/64"], mtu: 1279 })[0] ?? "", /1280 to 65535/);
  assert.deepEqual(links({ ...eth0, mtu: 576 }), []);
});

test("VLANs: range, what is below, circles", () => {
  const vlan = (fields: JsonValue): string => links(eth0, { name: "v", vlan: fields })[0] ?? "";
  for (const id of [0, 4095]) assert.match(vlan({ link: "eth0", id }), /links\[1\]\.vlan\.id: \d+ is out of range/);
  assert.match(vlan({ link: "eth9", id: 1 }), /link "eth9" is not in the document/);
  assert.match(vlan({ id: 1 }), /the name of a link is needed/);
  assert.match(
    links(eth0, { name: "a", vlan: { link: "eth0", id: 5 } }, { name: "b", vlan: { link: "eth0", id: 5 } })[0] ?? "",
    /links\[2\]\.vlan\.id: VLAN 5 of link "eth0" is there already/,
  );
  const circle = links(eth0, { name: "a", vlan: { link: "b", id: 1 } }, { name: "b", vlan: { link: "a", id: 1 } });
  assert.deepEqual(circle, [
    "machine.links[1].vlan.link: it leads back to itself",
    "machine.links[2].vlan.link: it leads back to itself",
  ]);
});

test("bonds: of the machine's own links, which have nothing themselves", () => {
  const bond = (fields: JsonValue, ...others: JsonValue[]): string =>
    links({ name: "eth1" }, { name: "b", addresses: ["192.0.2.1/24"], bond: fields }, ...others)[0] ?? "";
  assert.match(bond({}), /links\[1\]\.bond\.links: a bond needs a link/);
  assert.match(bond({ links: ["eth9"] }), /bond\.links\[0\]: link "eth9" is not in the document/);
  assert.match(bond({ links: ["eth1", "eth1"] }), /is in the bond "b" already/);
  assert.match(bond({ links: ["eth1"], primary: "eth2" }), /bond\.primary: "eth2" is no link of it/);
  assert.match(bond({ links: ["eth1"], mode: "BOND_MODE_LACP", primary: "eth1" }), /only ACTIVE_BACKUP/);
  assert.match(bond({ links: ["eth1", "v"] }, { name: "v", vlan: { link: "b", id: 1 } }), /link "v" is made itself/);
  assert.match(
    bond({ links: ["eth1"] }, { name: "v", vlan: { link: "eth1", id: 1 } }),
    /part of the bond "b": make the VLAN on that/,
  );
  assert.match(
    links({ ...eth0 }, { name: "b", dhcp: true, bond: { links: ["eth0"] } })[0] ?? "",
    /link "eth0" is part of the bond "b": the bond has the addresses/,
  );
});

test("links of which none gets an address", () => {
  assert.match(links({ name: "eth0" })[0] ?? "", /^machine\.links: no link gets an address/);
  assert.deepEqual(links({ name: "eth0", acceptRa: true }), []);
});

test("the other sections", () => {
  assert.match(faults({ hostname: "Nuc" })[0] ?? "", /^machine\.hostname: "Nuc" is no host name/);
  assert.match(
    faults({ dns: { servers: ["dns.example"] } })[0] ?? "",
    /dns\.servers\[0\]: "dns\.example" is no address/,
  );
  assert.match(faults({ dns: { servers: ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"] } })[0] ?? "", /at most 3/);
  assert.match(faults({ dns: { search: ["a b"] } })[0] ?? "", /dns\.search\[0\]/);
  assert.match(faults({ ntp: { servers: ["a\nb"] } })[0] ?? "", /ntp\.servers\[0\]/);
  assert.match(faults({ registries: [{ host: "a/b" }] })[0] ?? "", /registries\[0\]\.host: a host is needed/);
  assert.match(faults({ registries: [{ host: "a" }, { host: "a" }] })[0] ?? "", /registries\[1\]\.host: .*already/);
  assert.match(faults({ registries: [{ host: "a", mirrors: ["x"] }] })[0] ?? "", /registries\[0\]\.mirrors\[0\]/);
  assert.match(faults({ console: { notice: "x".repeat(79) } })[0] ?? "", /console\.notice: at most 5 lines of 78/);
  assert.match(faults({ console: { notice: "a\u001b[2J" } })[0] ?? "", /cannot be shown/);
  assert.match(faults({ updates: { autoConfirm: "900s" } })[0] ?? "", /updates\.autoConfirm/);
  assert.match(faults({ updates: { confirmWithin: "30s" } })[0] ?? "", /updates\.confirmWithin: 1 to 25 minutes/);
});

test("what a namespace cannot do is refused, and what it can is not", () => {
  assert.match(faults({ ntp: { servers: ["a"] } }, true)[0] ?? "", /machine\.ntp: the clock .* is its host's/);
  assert.match(faults({ console: { notice: "a" } }, true)[0] ?? "", /machine\.console: .* no console/);
  assert.deepEqual(faults({ hostname: "a", dns: { servers: ["1.1.1.1"] }, updates: { autoConfirm: "60s" } }, true), []);
});

test("a document of absurd size gives an answer of sensible size", () => {
  const many = Array.from({ length: 5_000 }, (_, i) => ({ name: `e${i}`, addresses: ["x"] }));
  assert.equal(faults({ links: many, registries: many.map(() => ({ host: "" })) }).length <= 51, true);
  const wide = Array.from({ length: 30 }, () => ({ name: "", addresses: Array(16).fill("x") }));
  assert.ok(faults({ links: wide }).length <= 50);
});
