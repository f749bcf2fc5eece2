import assert from "node:assert/strict";
import type { NetworkInterfaceInfo } from "node:os";
import { test } from "node:test";
import { neighbours, readLinks, sameLink, withZone } from "./links.ts";
import { announcedOf, isShortId, textOf } from "./service.ts";

const v4 = (address: string, prefix = 24): NetworkInterfaceInfo => ({
  family: "IPv4",
  address,
  netmask: "",
  cidr: `${address}/${prefix}`,
  mac: "",
  internal: address.startsWith("127."),
});
const v6 = (address: string): NetworkInterfaceInfo => ({
  family: "IPv6",
  address,
  netmask: "",
  cidr: `${address}/64`,
  mac: "",
  internal: false,
  scopeid: 0,
});

test("links are those with addresses, but loopback and what is left out; order makes no difference", () => {
  const interfaces = { lo: [v4("127.0.0.1", 8)], eth0: [v6("fe80::1"), v4("192.0.2.1")], capsule0: [v4("10.0.0.1")] };
  const links = readLinks((name) => name === "capsule0", interfaces);
  assert.deepEqual(
    links.map(({ name, addresses }) => [name, ...addresses.map(({ address }) => address)]),
    [["eth0", "192.0.2.1", "fe80::1"]],
  );
  const [again] = readLinks(() => false, { eth0: [v4("192.0.2.1"), v6("fe80::1")] });
  assert.ok(links[0] !== undefined && again !== undefined && sameLink(links[0], again));
});

test("neighbours are on the link's own subnets", () => {
  const [link] = readLinks(() => false, { eth0: [v4("192.0.2.1"), v6("fe80::1"), v6("2001:db8::1")] });
  const isNeighbour = neighbours(link ?? { name: "", addresses: [] });
  for (const address of ["192.0.2.200", "fe80::2%eth0", "2001:db8::9"]) assert.ok(isNeighbour(address), address);
  for (const address of ["192.0.3.1", "127.0.0.1", "fe80::2%eth1", "2001:db8:1::9", "", "x"])
    assert.ok(!isNeighbour(address), address);
});

test("an address of the link alone is written with its link", () => {
  assert.equal(withZone("fe80::1", "eth0"), "fe80::1%eth0");
  assert.equal(withZone("FEBF::1", "eth0"), "FEBF::1%eth0");
  assert.equal(withZone("2001:db8::1", "eth0"), "2001:db8::1");
  assert.equal(withZone("192.0.2.1", "eth0"), "192.0.2.1");
});

test("a text of no capsule is none, whatever is in it", () => {
  const announced = { capsuleId: "a".repeat(26), shortId: "aaaaaa", adopted: true, version: "1", mode: "qemu" };
  assert.deepEqual(announcedOf(textOf(announced)), announced);
  assert.equal(announcedOf(["id=short", "short=aaaaaa"]), undefined);
  assert.equal(announcedOf(textOf({ ...announced, shortId: "bbbbbb" })), undefined);
  assert.equal(announcedOf([]), undefined);
  // The first of a key counts.
  assert.equal(announcedOf([...textOf(announced), "adopted=false"])?.adopted, true);
  assert.ok(textOf({ ...announced, version: "x".repeat(999) }).every((one) => one.length < 256));
  assert.ok(isShortId("abc234") && !isShortId("abc123") && !isShortId("abcdefg"));
});
