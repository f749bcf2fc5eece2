/**
 * The firewall: one pure function from what the store says to the whole ruleset, as a script for `nft -f`, which loads it
 * in one transaction. Nothing is ever patched, so nothing can be left behind. The tables `inet capsule` and `bridge
 * capsule` are ours; no other is touched.
 *
 * What a packet passes does not grow with workloads: sets and maps are looked up by hash, and of the chains for neighbour
 * advertisements, one for each workload, a packet passes one.
 */
import { isIPv4, isIPv6 } from "node:net";
import { CapsuleError } from "../errors.ts";
import { macOf } from "./allocator.ts";
import { checkedInterface, LINK_PREFIX, linkName } from "./names.ts";

/** Multicast DNS. */
const mdnsPort = 5353;

export interface NetworkState {
  readonly bridge: string;
  /** Interface of the default route; undefined while there is none: then nothing is masqueraded. */
  readonly uplink: string | undefined;
  /** Of the workloads, in CIDR notation. */
  readonly cidr4: string;
  readonly cidr6: string;
  readonly workloads: readonly LinkedWorkload[];
}

/** A workload on the bridge. */
export interface LinkedWorkload {
  readonly uid: string;
  readonly ipv4: string;
  readonly ipv6: string;
  readonly ports: readonly PortMap[];
}

export interface PortMap {
  readonly protocol: "tcp" | "udp";
  readonly hostPort: number;
  readonly containerPort: number;
  /** Address of the capsule; empty for all, 0.0.0.0 or :: for all of one family. */
  readonly hostAddress: string;
}

/** The ruleset for `nft -f -`. Equal states give equal text, in whatever order they come. */
export function compile(state: NetworkState): string {
  const workloads = [...state.workloads].sort((a, b) => compare(a.uid, b.uid));
  return [
    // "add" first: deleting a table that is not there would fail the whole transaction.
    "add table inet capsule",
    "delete table inet capsule",
    "add table bridge capsule",
    "delete table bridge capsule",
    inetTable(state, portMaps(workloads)),
    bridgeTable(workloads),
    "",
  ].join("\n");
}

interface PortMaps {
  readonly any4: readonly string[];
  readonly any6: readonly string[];
  readonly one4: readonly string[];
  readonly one6: readonly string[];
}

function inetTable(state: NetworkState, maps: PortMaps): string {
  const bridge = `"${checkedInterface(state.bridge)}"`;
  const cidr4 = checkedCidr(state.cidr4, 4);
  const cidr6 = checkedCidr(state.cidr6, 6);
  const masquerade: string[] = [];
  if (state.uplink !== undefined) {
    const uplink = `"${checkedInterface(state.uplink)}"`;
    masquerade.push(
      `    oifname ${uplink} ip saddr ${cidr4} masquerade`,
      `    oifname ${uplink} ip6 saddr ${cidr6} masquerade`,
    );
  }
  return `table inet capsule {
  map port4 {
    type inet_proto . inet_service : ipv4_addr . inet_service
${elements(maps.any4)}  }
  map port6 {
    type inet_proto . inet_service : ipv6_addr . inet_service
${elements(maps.any6)}  }
  map address_port4 {
    type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
${elements(maps.one4)}  }
  map address_port6 {
    type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
${elements(maps.one6)}  }

  # The bridge routes 127.0.0.0/8 (for ports of workloads on 127.0.0.1); nobody on it may use that.
  chain raw_prerouting {
    type filter hook prerouting priority raw; policy accept;
    iifname ${bridge} ip daddr 127.0.0.0/8 drop
    iifname ${bridge} ip saddr 127.0.0.0/8 drop
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump ports
  }
  # What the capsule itself sends to one of its own addresses, 127.0.0.1 included.
  chain output {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump ports
  }
  # A map of one address goes before one of all.
  chain ports {
    meta l4proto != { tcp, udp } return
    dnat ip to ip daddr . meta l4proto . th dport map @address_port4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @address_port6
    dnat ip to meta l4proto . th dport map @port4
    dnat ip6 to meta l4proto . th dport map @port6
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    # Hairpin: else the answer would go straight to the caller, from an address that it never called.
    iifname ${bridge} oifname ${bridge} ct status dnat masquerade
    oifname ${bridge} ip saddr 127.0.0.0/8 masquerade
    oifname ${bridge} ip6 saddr ::1 masquerade
${masquerade.join("\n")}
  }
  # Who the capsule is, and who else is on its network, is for the people there: by multicast DNS it speaks with them
  # (system/discovery), and never with its workloads.
  chain input {
    type filter hook input priority filter; policy accept;
    iifname ${bridge} udp dport ${mdnsPort} drop
  }
  # From outside only mapped ports are reachable, also for a neighbour that sets a route to the workloads.
  chain forward {
    type filter hook forward priority filter; policy accept;
    oifname != ${bridge} accept
    iifname ${bridge} accept
    ct state established,related accept
    ct status dnat accept
    drop
  }
}`;
}

function bridgeTable(workloads: readonly LinkedWorkload[]): string {
  const links = workloads.map((workload) => {
    const mac = macOf(checkedAddress(workload.ipv4, 4));
    const own6 = [checkedAddress(workload.ipv6, 6), linkLocalOf(mac)];
    const name = linkName(workload.uid);
    return { chain: `advert_${workload.uid}`, port: `"${name}" . ${mac}`, ipv4: workload.ipv4, own6 };
  });
  return `table bridge capsule {
  set link4 {
    type ifname . ether_addr . ipv4_addr
${elements(links.map((link) => `${link.port} . ${link.ipv4}`))}  }
  set link6 {
    type ifname . ether_addr . ipv6_addr
${elements(links.flatMap((link) => link.own6.map((address) => `${link.port} . ${address}`)))}  }
  set link {
    type ifname . ether_addr
${elements(links.map((link) => link.port))}  }
  map advert {
    type ifname . ether_addr : verdict
${elements(links.map((link) => `${link.port} : goto ${link.chain}`))}  }

  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname "${LINK_PREFIX}*" goto from_workload
  }
  # What is not known to be the workload's own is dropped; so is all of a link that the store does not know.
  chain from_workload {
    ether type ip iifname . ether saddr . ip saddr @link4 accept
    ether type arp arp htype 1 arp ptype ip iifname . ether saddr @link iifname . arp saddr ether . arp saddr ip @link4 accept
    # Only the capsule is a router.
    icmpv6 type { nd-router-advert, nd-redirect } drop
    icmpv6 type nd-neighbor-advert jump advert
    ether type ip6 iifname . ether saddr . ip6 saddr @link6 accept
    # Duplicate address detection and multicast reports come before there is an address.
    ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } iifname . ether saddr @link accept
    drop
  }
  chain advert {
    iifname . ether saddr vmap @advert
    drop
  }
${links.map(advertChain).join("")}}`;
}

/** Bytes 8 to 23 of a neighbour advertisement are the address that it claims. */
function advertChain(link: { readonly chain: string; readonly own6: readonly string[] }): string {
  return `  chain ${link.chain} {
    @th,64,128 { ${link.own6.map((address) => `0x${hex6(address)}`).join(", ")} } return
    drop
  }
`;
}

function portMaps(workloads: readonly LinkedWorkload[]): PortMaps {
  const maps = { any4: [] as string[], any6: [] as string[], one4: [] as string[], one6: [] as string[] };
  const holders = new Map<string, string>();
  for (const { uid, ipv4, ipv6, ports } of workloads) {
    checkedAddress(ipv4, 4);
    checkedAddress(ipv6, 6);
    for (const { protocol, hostPort, containerPort, hostAddress } of ports) {
      const key = `${protocol} . ${checkedPort(hostPort)}`;
      const to4 = `${ipv4} . ${checkedPort(containerPort)}`;
      const to6 = `${ipv6} . ${containerPort}`;
      const add = (map: string[], left: string, right: string) => {
        const holder = holders.get(left + (map === maps.any6 ? " 6" : ""));
        if (holder !== undefined) throw new CapsuleError("conflict", `${left} is mapped by ${holder} and by ${uid}`);
        holders.set(left + (map === maps.any6 ? " 6" : ""), uid);
        map.push(`${left} : ${right}`);
      };
      if (hostAddress === "" || hostAddress === "0.0.0.0") add(maps.any4, key, to4);
      if (hostAddress === "" || hostAddress === "::") add(maps.any6, key, to6);
      if (["", "0.0.0.0", "::"].includes(hostAddress)) continue;
      if (isIPv4(hostAddress)) add(maps.one4, `${hostAddress} . ${key}`, to4);
      else add(maps.one6, `${formatted6(checkedAddress(hostAddress, 6))} . ${key}`, to6);
    }
  }
  for (const map of Object.values(maps)) map.sort(compare);
  return maps;
}

function elements(list: readonly string[]): string {
  return list.length === 0 ? "" : `    elements = {\n${list.map((one) => `      ${one},\n`).join("")}    }\n`;
}

/** The link-local address that Linux makes of a MAC address (RFC 4291, appendix A). */
function linkLocalOf(mac: string): string {
  const [a = "", b = "", c = "", d = "", e = "", f = ""] = mac.split(":");
  const first = (Number.parseInt(a, 16) ^ 2).toString(16).padStart(2, "0");
  return formatted6(`fe80::${first}${b}:${c}ff:fe${d}:${e}${f}`);
}

/** One spelling per address, so that equal ones collide. */
function formatted6(address: string): string {
  return new URL(`http://[${address}]/`).hostname.slice(1, -1);
}

function hex6(address: string): string {
  const [head = "", tail] = formatted6(address).split("::");
  const groups = (text: string | undefined) => (text === undefined || text === "" ? [] : text.split(":"));
  const left = groups(head);
  const right = groups(tail);
  const zeros = new Array<string>(8 - left.length - right.length).fill("0");
  return [...left, ...zeros, ...right].map((group) => group.padStart(4, "0")).join("");
}

// Everything that goes into the script is checked here: a value must never be able to become a rule.

function checkedAddress(address: string, family: 4 | 6): string {
  // A zone ("fe80::1%eth0") is refused: it means nothing to nft.
  const good = family === 4 ? isIPv4(address) : isIPv6(address) && !address.includes("%");
  if (!good) throw new CapsuleError("internal", `"${address}" is not an IPv${family} address`);
  return address;
}

function checkedCidr(cidr: string, family: 4 | 6): string {
  const match = /^([^/]+)\/([0-9]{1,3})$/.exec(cidr);
  if (match === null) throw new CapsuleError("internal", `"${cidr}" is not a subnet`);
  checkedAddress(match[1] ?? "", family);
  return cidr;
}

function checkedPort(port: number): number {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new CapsuleError("internal", `${port} is not a port number`);
  }
  return port;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
