/** Addresses with the length of their prefix, as in "192.0.2.10/24". */
import { BlockList, isIP, SocketAddress } from "node:net";

export interface Cidr {
  readonly family: 4 | 6;
  /** In the one spelling that ip(8) has for it. */
  readonly address: string;
  /** Length of the prefix in bits. */
  readonly bits: number;
  readonly text: string;
}

/** Undefined when it is none. An address with a zone ("fe80::1%eth0") is none either. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^([0-9a-fA-F.:]+)\/([0-9]{1,3})$/.exec(text);
  const address = match?.[1] === undefined ? undefined : canonicalAddress(match[1]);
  if (address === undefined) return undefined;
  const family = familyOf(address);
  const bits = Number(match?.[2]);
  if (bits < 1 || bits > (family === 4 ? 32 : 128)) return undefined;
  return { family, address, bits, text: `${address}/${bits}` };
}

/** One spelling for each address; undefined when it is none. */
export function canonicalAddress(text: string): string | undefined {
  if (isIP(text) === 0 || text.includes("%")) return undefined;
  return new SocketAddress({ address: text, family: isIP(text) === 4 ? "ipv4" : "ipv6" }).address;
}

export function familyOf(address: string): 4 | 6 {
  return isIP(address) === 4 ? 4 : 6;
}

export function isInside(address: string, { address: network, bits, family }: Cidr): boolean {
  if (familyOf(address) !== family) return false;
  const list = new BlockList();
  list.addSubnet(network, bits, family === 4 ? "ipv4" : "ipv6");
  return list.check(address, family === 4 ? "ipv4" : "ipv6");
}

export function overlap(a: Cidr, b: Cidr): boolean {
  return isInside(a.address, b) || isInside(b.address, a);
}

/** Whether it is the name of its subnet, or its broadcast address, and so nobody's (IPv4 below /31). */
export function isSubnetItself({ family, address, bits }: Cidr): boolean {
  if (family === 6 || bits > 30) return false;
  const value = address.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0);
  const size = 2 ** (32 - bits);
  return value % size === 0 || value % size === size - 1;
}
