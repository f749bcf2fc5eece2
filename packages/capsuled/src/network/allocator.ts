/**
 * Addresses of workloads, of both kinds. Pure: what is taken comes in as data, and the store's primary key settles that
 * none is given twice. A workload has the same index in the IPv4 and in the IPv6 subnet.
 */
import { createHash } from "node:crypto";
import { BlockList, isIPv4 } from "node:net";
import { CapsuleError } from "../errors.ts";

/** Workload addresses of a /20 without network, gateway and broadcast: 4,093. */
const PREFIX4 = 20;
const BLOCKS = 2 ** (PREFIX4 - 10);
const POOL4 = parse4("10.64.0.0");

const GATEWAY_INDEX = 1;
const FIRST_INDEX = 2;
const LAST_INDEX = 2 ** (32 - PREFIX4) - 2;

export interface Subnets {
  /** Such as `10.71.16.0/20`. */
  readonly cidr4: string;
  readonly gateway4: string;
  /** A /64 of unique local addresses (RFC 4193). */
  readonly cidr6: string;
  readonly gateway6: string;
}

/** The prefix length of a subnet with its slash, such as "/20". */
export function prefixOf(cidr: string): string {
  return cidr.slice(cidr.indexOf("/"));
}

export interface Addresses {
  /** To be stored, and given to the next `allocate` as `after`. */
  readonly index: number;
  readonly ipv4: string;
  readonly ipv6: string;
}

/**
 * The subnets of a capsule. They follow from its id, so that two capsules seldom have the same; the IPv4 one moves to the
 * next free block of 10.64.0.0/10 when it overlaps one of `routes` (CIDR notation; default routes and IPv6 are ignored).
 * Choose once and store the choice. Throws `exhausted` when every block is routed.
 */
export function chooseSubnets(capsuleId: string, routes: readonly string[]): Subnets {
  const digest = createHash("sha256").update(`capsule-subnets\0${capsuleId}`).digest();
  const ranges = routes.flatMap(range4);
  const start = digest.readUInt16BE(8) % BLOCKS;
  const size = 2 ** (32 - PREFIX4);
  for (let offset = 0; offset < BLOCKS; offset++) {
    const first = POOL4 + ((start + offset) % BLOCKS) * size;
    const last = first + size - 1;
    if (ranges.some((range) => range.first <= last && first <= range.last)) continue;
    // 40 bits as RFC 4193 wants them, then subnet 0.
    const hex = `fd${digest.toString("hex", 0, 5)}`;
    const prefix6 = `${[0, 4, 8].map((at) => Number.parseInt(hex.slice(at, at + 4), 16).toString(16)).join(":")}::`;
    return {
      cidr4: `${format4(first)}/${PREFIX4}`,
      gateway4: format4(first + GATEWAY_INDEX),
      cidr6: `${prefix6}/64`,
      gateway6: `${prefix6}${GATEWAY_INDEX.toString(16)}`,
    };
  }
  throw new CapsuleError("exhausted", "no /20 of 10.64.0.0/10 is free: routes of the capsule cover all of it", {
    reason: "NO_SUBNET",
  });
}

/**
 * The next free pair of addresses. The search starts behind `after` (index of the last one given, 0 at first) and wraps,
 * so that an address rests as long as possible before it is given again: peers and the connection tracker remember.
 * Throws `exhausted` when all are taken.
 */
export function allocate(subnets: Subnets, isTaken: (address: string) => boolean, after: number): Addresses {
  const base4 = parse4(subnets.cidr4.slice(0, subnets.cidr4.indexOf("/")));
  const prefix6 = subnets.cidr6.slice(0, subnets.cidr6.indexOf("/"));
  const count = LAST_INDEX - FIRST_INDEX + 1;
  const start = after >= FIRST_INDEX && after < LAST_INDEX ? after + 1 : FIRST_INDEX;
  for (let offset = 0; offset < count; offset++) {
    const index = FIRST_INDEX + ((start - FIRST_INDEX + offset) % count);
    const ipv4 = format4(base4 + index);
    const ipv6 = `${prefix6}${index.toString(16)}`;
    if (!isTaken(ipv4) && !isTaken(ipv6)) return { index, ipv4, ipv6 };
  }
  throw new CapsuleError("exhausted", `all ${count} addresses of ${subnets.cidr4} are taken; delete workloads`, {
    reason: "NO_ADDRESS",
  });
}

/** MAC address of a workload: locally administered, and unique on the bridge as its IPv4 address is. */
export function macOf(ipv4: string): string {
  const value = parse4(ipv4);
  const bytes = [0x02, 0xca, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** Whether an address lies in a subnet in CIDR notation. */
export function contains(cidr: string, address: string): boolean {
  const [network = "", bits = ""] = cidr.split("/");
  const family = isIPv4(network) ? "ipv4" : "ipv6";
  const list = new BlockList();
  list.addSubnet(network, Number(bits), family);
  return list.check(address, isIPv4(address) ? "ipv4" : "ipv6");
}

function range4(cidr: string): { first: number; last: number }[] {
  const [network = "", bits = "32"] = cidr.split("/");
  // `ip -j route` calls 0.0.0.0/0 "default"; it overlaps everything and means nothing here.
  if (!isIPv4(network) || bits === "0") return [];
  const size = 2 ** (32 - Number(bits));
  const first = Math.floor(parse4(network) / size) * size;
  return [{ first, last: first + size - 1 }];
}

function parse4(address: string): number {
  if (!isIPv4(address)) throw new CapsuleError("internal", `"${address}" is not an IPv4 address`);
  return address.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

function format4(value: number): string {
  return [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255].join(".");
}
