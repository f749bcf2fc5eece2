import assert from "node:assert/strict";
import { test } from "node:test";
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { type MachineLink, MachineLinkSchema } from "@capsule/api";
import type { Observed } from "./observe.ts";
import { emptyBaseline, nothingOwned, type Owned, type Plan, planLinks, presentBaseline } from "./plan.ts";
import { wantedLinks } from "./wanted.ts";

/** Of a document, as in a manifest. */
function aLink(name: string, fields: Record<string, JsonValue> = {}): MachineLink {
  return fromJson(MachineLinkSchema, { name, ...fields });
}

/** A link that is there; up, and with nothing. */
function there(name: string, fields: Partial<Observed> = {}): Observed {
  const mac = `02:00:00:00:00:${name.charCodeAt(name.length - 1).toString(16)}`;
  return {
    name,
    mac,
    up: true,
    mtu: 1500,
    kind: "",
    master: undefined,
    primary: undefined,
    addresses: [],
    defaults: [],
    acceptRa: 0,
    ...fields,
  };
}

function having(name: string, ...texts: string[]): Observed {
  const addresses = texts.map((text) => ({
    text,
    family: text.includes(":") ? (6 as const) : (4 as const),
    dynamic: false,
  }));
  return there(name, { addresses });
}

function route(gateway: string, protocol = "static"): Observed["defaults"][number] {
  return { family: gateway.includes(":") ? 6 : 4, gateway, protocol };
}

function planned(links: MachineLink[], observed: Observed[], owned: Owned = nothingOwned, isMachine = false): Plan {
  return planLinks(wantedLinks(links, observed).links, owned, observed, isMachine ? emptyBaseline : presentBaseline);
}

function steps(...args: Parameters<typeof planned>): string[] {
  return planned(...args).steps.map((step) =>
    step.kind === "ip" ? step.line : `${step.path.split("/").slice(-2).join("/")}=${step.value}`,
  );
}

const eth0 = aLink("eth0", { addresses: ["192.0.2.10/24"], gateway: "192.0.2.1" });

test("a static address with a way out; and nothing to do when it is there", () => {
  assert.deepEqual(steps([eth0], [there("eth0")]), [
    "address replace 192.0.2.10/24 dev eth0",
    "route replace default via 192.0.2.1 dev eth0 proto static",
  ]);
  const done = { ...having("eth0", "192.0.2.10/24"), defaults: [route("192.0.2.1")] };
  assert.deepEqual(steps([eth0], [done]), []);
});

test("what somebody else gave the link goes, and all is given again: the kernel takes more than it is told to", () => {
  const other = { ...having("eth0", "192.0.2.9/24", "192.0.2.10/24"), defaults: [route("192.0.2.2", "dhcp")] };
  assert.deepEqual(steps([eth0], [other]), [
    "route delete default via 192.0.2.2 dev eth0",
    "address delete 192.0.2.9/24 dev eth0",
    "address replace 192.0.2.10/24 dev eth0",
    "route replace default via 192.0.2.1 dev eth0 proto static",
  ]);
});

test("an address that moves from one link to another is taken before it is given", () => {
  const a = aLink("a", { addresses: ["10.0.0.1/24"] });
  const b = aLink("b", { addresses: ["10.0.1.1/24"] });
  assert.deepEqual(steps([a, b], [having("a", "10.0.1.1/24"), having("b", "10.0.0.1/24")]), [
    "address delete 10.0.1.1/24 dev a",
    "address delete 10.0.0.1/24 dev b",
    "address replace 10.0.0.1/24 dev a",
    "address replace 10.0.1.1/24 dev b",
  ]);
});

test("of a link with DHCP the lease is left alone, and what IPv6 it has not from the document goes", () => {
  const leased = {
    ...having("eth0", "10.0.2.15/24", "2001:db8::9/64"),
    defaults: [route("10.0.2.2", "dhcp")],
    acceptRa: 2,
  };
  assert.deepEqual(steps([aLink("eth0", { dhcp: true })], [leased]), ["address delete 2001:db8::9/64 dev eth0"]);
});

test("router advertisements: asked for anew where they are wanted, gone where not", () => {
  const link = {
    ...there("eth0"),
    acceptRa: 1,
    addresses: [{ text: "2001:db8::a/64", family: 6 as const, dynamic: true }],
    defaults: [route("fe80::1", "ra")],
  };
  assert.deepEqual(steps([aLink("eth0", { acceptRa: true })], [link]), [
    "eth0/accept_ra=2",
    "eth0/disable_ipv6=1",
    "eth0/disable_ipv6=0",
  ]);
  assert.deepEqual(steps([eth0], [link]).slice(0, 3), [
    "route delete default via fe80::1 dev eth0",
    "address delete 2001:db8::a/64 dev eth0",
    "eth0/accept_ra=0",
  ]);
  assert.deepEqual(steps([aLink("eth0", { acceptRa: true })], [{ ...link, acceptRa: 2 }]), []);
});

test("a link that is down is raised; its MTU is set, and goes back when the document no longer has one", () => {
  const large = aLink("eth0", { addresses: ["10.0.0.1/24"], mtu: 9000 });
  const plan = planned([large], [there("eth0", { up: false })]);
  assert.deepEqual(
    plan.steps.map((step) => (step.kind === "ip" ? step.line : step.path)),
    ["link set eth0 mtu 9000", "link set eth0 up", "address replace 10.0.0.1/24 dev eth0"],
  );
  const now = { ...having("eth0", "10.0.0.1/24"), mtu: 9000 };
  assert.deepEqual(steps([aLink("eth0", { addresses: ["10.0.0.1/24"] })], [now], plan.after), [
    "link set eth0 mtu 1500",
  ]);
});

test("what a link of a namespace had is given back when the document lets go of it", () => {
  const given = { ...having("eth0", "10.213.0.9/24"), defaults: [route("10.213.0.1", "boot")] };
  const { after } = planned([eth0], [given]);
  const now = { ...having("eth0", "192.0.2.10/24"), defaults: [route("192.0.2.1")] };
  const plan = planned([], [now], after);
  assert.deepEqual(
    plan.steps.map((step) => (step.kind === "ip" ? step.line : step.path)),
    [
      "route delete default via 192.0.2.1 dev eth0",
      "address delete 192.0.2.10/24 dev eth0",
      "address replace 10.213.0.9/24 dev eth0",
      "route replace default via 10.213.0.1 dev eth0 proto static",
    ],
  );
  assert.deepEqual(plan.after, nothingOwned);
  // It is its own until it has been given back, or a kill would lose it.
  assert.ok(plan.during.taken["eth0"] !== undefined);
});

test("on a machine a link that is let go of is left with nothing: the default gives it a lease", () => {
  const { after } = planned([eth0], [having("eth0", "10.0.2.15/24")], nothingOwned, true);
  assert.deepEqual(steps([], [having("eth0", "192.0.2.10/24")], after, true), [
    "address delete 192.0.2.10/24 dev eth0",
    "eth0/accept_ra=1",
  ]);
});

test("a VLAN is made after what is below it, whatever the order in the document, and deleted when it goes", () => {
  const vlan = aLink("v7", { vlan: { link: "eth1", id: 7 }, addresses: ["10.7.0.1/24"] });
  const eth1 = aLink("eth1");
  const plan = planned([vlan, eth1], [there("eth1", { up: false })]);
  assert.deepEqual(
    plan.steps.map((step) => (step.kind === "ip" ? step.line : "setting")),
    [
      "link set eth1 up",
      "link add link eth1 name v7 type vlan id 7",
      "setting",
      "link set v7 up",
      "address replace 10.7.0.1/24 dev v7",
    ],
  );
  assert.deepEqual(plan.during.made, [{ name: "v7", signature: "vlan 7 eth1" }]);
  const present = [there("eth1"), { ...having("v7", "10.7.0.1/24"), kind: "vlan" }];
  assert.deepEqual(steps([vlan, eth1], present, plan.after), []);
  assert.deepEqual(steps([eth1], present, plan.after), ["link delete v7"]);
  const other = aLink("v7", { vlan: { link: "eth1", id: 8 }, addresses: ["10.7.0.1/24"] });
  assert.deepEqual(steps([eth1, other], present, plan.after).slice(0, 2), [
    "link delete v7",
    "link add link eth1 name v7 type vlan id 8",
  ]);
});

test("a bond takes its links while they are down, and a VLAN on it is remade with it", () => {
  const members = [aLink("eth1"), aLink("eth2")];
  const bond = aLink("bond0", { bond: { links: ["eth1", "eth2"], primary: "eth2" }, addresses: ["10.0.0.1/24"] });
  const vlan = aLink("v5", { vlan: { link: "bond0", id: 5 }, addresses: ["10.5.0.1/24"] });
  const plan = planned([vlan, bond, ...members], [having("eth1", "192.168.0.1/24"), there("eth2")]);
  assert.deepEqual(
    plan.steps.map((step) => (step.kind === "ip" ? step.line : "setting")),
    [
      "address delete 192.168.0.1/24 dev eth1",
      "link add name bond0 type bond mode active-backup miimon 100",
      "link set eth1 down",
      "link set eth1 master bond0",
      "link set eth1 up",
      "link set eth2 down",
      "link set eth2 master bond0",
      "link set eth2 up",
      "link set bond0 type bond primary eth2",
      "setting",
      "link set bond0 up",
      "address replace 10.0.0.1/24 dev bond0",
      "link add link bond0 name v5 type vlan id 5",
      "setting",
      "link set v5 up",
      "address replace 10.5.0.1/24 dev v5",
    ],
  );
  const present = [
    there("eth1", { master: "bond0" }),
    there("eth2", { master: "bond0" }),
    { ...having("bond0", "10.0.0.1/24"), kind: "bond", primary: "eth2" },
    { ...having("v5", "10.5.0.1/24"), kind: "vlan" },
  ];
  assert.deepEqual(steps([vlan, bond, ...members], present, plan.after), []);
  const other = aLink("bond0", {
    bond: { links: ["eth1", "eth2"], mode: "BOND_MODE_LACP" },
    addresses: ["10.0.0.1/24"],
  });
  assert.deepEqual(steps([vlan, other, ...members], present, plan.after).slice(0, 3), [
    "link delete v5",
    "link delete bond0",
    "link add name bond0 type bond mode 802.3ad miimon 100",
  ]);
  const preferring = (primary: object): MachineLink =>
    aLink("bond0", { bond: { links: ["eth1", "eth2"], ...primary }, addresses: ["10.0.0.1/24"] });
  assert.deepEqual(steps([vlan, preferring({ primary: "eth1" }), ...members], present, plan.after), [
    "link set bond0 type bond primary eth1",
  ]);
  assert.deepEqual(steps([vlan, preferring({}), ...members], present, plan.after).slice(0, 3), [
    "link delete v5",
    "link delete bond0",
    "link add name bond0 type bond mode active-backup miimon 100",
  ]);
  // Back to one link: the driver leaves it down.
  assert.deepEqual(steps([aLink("eth1", { addresses: ["10.0.0.1/24"] })], present, plan.after), [
    "link delete v5",
    "link delete bond0",
    "link set eth2 up",
    "link set eth1 up",
    "address replace 10.0.0.1/24 dev eth1",
  ]);
});

test("a link that leaves its bond, while the bond stays", () => {
  const bond = aLink("bond0", { bond: { links: ["eth1"] }, addresses: ["10.0.0.1/24"] });
  const owned: Owned = { taken: {}, made: [{ name: "bond0", signature: "bond active-backup" }] };
  const present = [
    there("eth1", { master: "bond0" }),
    there("eth2", { master: "bond0" }),
    { ...having("bond0", "10.0.0.1/24"), kind: "bond" },
  ];
  assert.deepEqual(
    steps([aLink("eth1"), aLink("eth2", { dhcp: false, addresses: ["10.2.0.1/24"] }), bond], present, owned),
    ["link set eth2 nomaster", "link set eth2 up", "address replace 10.2.0.1/24 dev eth2"],
  );
});

test("links are found by their hardware address, also as members of a bond; one that is not there is told", () => {
  const observed = [
    there("enp3s0", { mac: "52:54:00:00:00:01", master: "bond0" }),
    there("bond0", { mac: "52:54:00:00:00:01", kind: "bond" }),
  ];
  const links = [
    aLink("first", { match: { mac: "52:54:00:00:00:01" } }),
    aLink("second", { match: { mac: "52:54:00:00:00:02" } }),
    aLink("bond0", { bond: { links: ["first", "second"], primary: "first" }, dhcp: true }),
    aLink("up", { vlan: { link: "second", id: 1 } }),
  ];
  const { links: wanted, faults } = wantedLinks(links, observed);
  assert.deepEqual(
    wanted.map(({ name, made }) => [name, made?.kind === "bond" ? [made.members, made.primary] : made]),
    [
      ["enp3s0", undefined],
      ["bond0", [["enp3s0"], "enp3s0"]],
    ],
  );
  assert.deepEqual(faults, [
    "link second is not there (nothing has the address 52:54:00:00:00:02)",
    "link up cannot be made: nothing that it is made of is there",
  ]);
});
