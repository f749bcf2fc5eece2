import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { isIPv4, isIPv6 } from "node:net";
import { describe, it } from "node:test";
import { CapsuleError } from "../errors.ts";
import { allocate, chooseSubnets, contains, macOf } from "./allocator.ts";

const seed = Number(process.env["SEED"] ?? randomInt(2 ** 31));

/** Linear congruential generator: enough to shuffle, and repeatable. */
function numbers(from: number): (below: number) => number {
  let state = from;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >>> 8) % below;
  };
}

describe("choice of subnets", () => {
  it("is the same for the same capsule and differs between capsules", () => {
    assert.deepEqual(chooseSubnets("one", []), chooseSubnets("one", []));
    assert.notEqual(chooseSubnets("one", []).cidr6, chooseSubnets("two", []).cidr6);
  });

  it("is a /20 of 10.64.0.0/10 and a /64 of unique local addresses, each with its gateway", () => {
    for (let n = 0; n < 500; n++) {
      const subnets = chooseSubnets(`capsule-${n}`, []);
      assert.ok(contains("10.64.0.0/10", subnets.gateway4) && contains(subnets.cidr4, subnets.gateway4));
      assert.ok(subnets.cidr4.endsWith("/20") && subnets.cidr6.endsWith("/64"));
      assert.ok(isIPv6(subnets.gateway6) && contains("fd00::/8", subnets.gateway6));
      assert.ok(contains(subnets.cidr6, subnets.gateway6));
    }
  });

  it("moves away from a route that covers it, or that lies inside", () => {
    const { cidr4, gateway4 } = chooseSubnets("one", []);
    for (const route of [cidr4, `${gateway4}/32`, gateway4, "10.64.0.0/11"]) {
      const moved = chooseSubnets("one", [route, "10.96.0.0/12"]);
      const [network = ""] = route.split("/");
      assert.ok(!contains(moved.cidr4, network), `${moved.cidr4} overlaps ${route}`);
      assert.ok(!contains("10.96.0.0/12", moved.gateway4));
    }
  });

  it("does not mind default routes and IPv6 ones", () => {
    assert.deepEqual(chooseSubnets("one", ["default", "0.0.0.0/0", "fe80::/64"]), chooseSubnets("one", []));
  });

  it("says so when no block is free", () => {
    assert.throws(
      () => chooseSubnets("one", ["10.0.0.0/8"]),
      (error) => error instanceof CapsuleError && error.kind === "exhausted",
    );
  });
});

describe(`allocation of addresses (SEED=${seed})`, () => {
  it("gives 4,000 workloads their own, also while others go and come", () => {
    const subnets = chooseSubnets("one", []);
    const next = numbers(seed);
    const taken = new Set<string>();
    const held: { ipv4: string; ipv6: string }[] = [];
    let after = 0;
    for (let step = 0; step < 20_000; step++) {
      const grows = held.length === 0 || (held.length < 4_000 && (step < 4_000 ? next(10) > 0 : next(2) === 0));
      if (grows) {
        const given = allocate(subnets, (address) => taken.has(address), after);
        after = given.index;
        for (const address of [given.ipv4, given.ipv6]) {
          assert.ok(!taken.has(address), `${address} given twice`);
          assert.ok(address !== subnets.gateway4 && address !== subnets.gateway6, "the gateway's own");
          taken.add(address);
        }
        assert.ok(isIPv4(given.ipv4) && isIPv6(given.ipv6));
        held.push(given);
      } else {
        const [gone] = held.splice(next(held.length), 1);
        assert.ok(gone);
        taken.delete(gone.ipv4);
        taken.delete(gone.ipv6);
      }
    }
  });

  it("gives exactly the 4,093 usable addresses of the subnet, and then says that there are no more", () => {
    const subnets = chooseSubnets("one", []);
    const taken = new Set<string>();
    let after = 0;
    for (let n = 0; n < 4_093; n++) {
      const given = allocate(subnets, (address) => taken.has(address), after);
      after = given.index;
      taken.add(given.ipv4);
      assert.ok(contains(subnets.cidr4, given.ipv4) && contains(subnets.cidr6, given.ipv6));
    }
    assert.equal(taken.size, 4_093);
    assert.throws(
      () => allocate(subnets, (address) => taken.has(address), after),
      (error) => error instanceof CapsuleError && error.reason === "NO_ADDRESS",
    );
  });

  it("lets a released address rest until the others have been given", () => {
    const subnets = chooseSubnets("one", []);
    const first = allocate(subnets, () => false, 0);
    const second = allocate(subnets, () => false, first.index);
    assert.notEqual(second.ipv4, first.ipv4);
  });
});

describe("MAC addresses", () => {
  it("are unicast, locally administered, and follow from the IPv4 address", () => {
    assert.equal(macOf("10.64.1.255"), "02:ca:0a:40:01:ff");
  });
});
