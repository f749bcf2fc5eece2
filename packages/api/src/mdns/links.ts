/** The links of this machine that multicast DNS is spoken on, as they are now. */
import { BlockList } from "node:net";
import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";

export interface LinkAddress {
  readonly family: 4 | 6;
  readonly address: string;
  /** Length of the network's prefix, in bits. */
  readonly prefix: number;
}

/** An interface that is up, with its addresses. */
export interface Link {
  readonly name: string;
  /** Sorted: equal states are equal lists. */
  readonly addresses: readonly LinkAddress[];
}

type Interfaces = NodeJS.Dict<NetworkInterfaceInfo[]>;

/** All links but loopback and those that `isOthers` names. */
export function readLinks(
  isOthers: (name: string) => boolean = () => false,
  interfaces: Interfaces = networkInterfaces(),
): Link[] {
  return Object.entries(interfaces).flatMap(([name, infos]) => {
    if (isOthers(name)) return [];
    const addresses = (infos ?? []).filter(({ internal }) => !internal).map(addressOf);
    if (addresses.length === 0) return [];
    return [{ name, addresses: addresses.sort((a, b) => a.family - b.family || (a.address < b.address ? -1 : 1)) }];
  });
}

function addressOf({ family, address, cidr }: NetworkInterfaceInfo): LinkAddress {
  const isV4 = family === "IPv4";
  return { family: isV4 ? 4 : 6, address, prefix: Number(cidr?.split("/")[1] ?? (isV4 ? 32 : 128)) };
}

/** Whether two states of a link are the same. */
export function sameLink(a: Link, b: Link): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/**
 * Tells whether a sender is on the link. Every socket of port 5353 gets what comes by any link, and what comes from beyond
 * the link is nobody's business here (RFC 6762, section 11).
 */
export function neighbours(link: Link): (address: string) => boolean {
  const subnets = new BlockList();
  for (const { family, address, prefix } of link.addresses)
    subnets.addSubnet(address, prefix, family === 4 ? "ipv4" : "ipv6");
  return (sender) => {
    const [address = "", zone] = sender.split("%");
    if (zone !== undefined && zone !== link.name) return false;
    return subnets.check(address, address.includes(":") ? "ipv6" : "ipv4");
  };
}

/** An address as one connects to it: one that is good on one link only carries that link's name (RFC 4007). */
export function withZone(address: string, link: string): string {
  return /^fe[89ab][0-9a-f]:/i.test(address) ? `${address}%${link}` : address;
}
