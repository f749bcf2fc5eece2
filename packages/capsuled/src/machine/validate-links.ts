/** Whether the links of a document can be made at all. Pure; finds every fault, each with its path in the manifest. */
import { BondMode, type MachineLink } from "@capsule/api";
import {
  type Cidr,
  canonicalAddress,
  familyOf,
  isInside,
  isSubnetItself,
  overlap,
  parseCidr,
} from "../network/links/cidr.ts";
import { isWorkloadLink } from "../network/names.ts";
import { clip, type Faults, known } from "../workload/faults.ts";

const LINK = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/;
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const maxLinks = 32;
const maxAddresses = 16;
const minMtu = 576;
/** RFC 8200. */
const minMtu6 = 1_280;
const maxMtu = 65_535;

/** Subnets that are the workloads', in CIDR notation. */
export interface LinkFacts {
  readonly workloadSubnets: readonly string[];
}

export function validateLinks(links: readonly MachineLink[], facts: LinkFacts, faults: Faults): void {
  if (links.length > maxLinks) {
    faults.add(faults.at("links"), `${links.length} links; at most ${maxLinks} are taken`);
    return;
  }
  const at = (i: number): string => faults.at(`links[${i}]`);
  const byName = new Map<string, number>();
  for (const [i, link] of links.entries()) {
    validateName(link, at(i), faults);
    const first = byName.get(link.name);
    if (first === undefined) byName.set(link.name, i);
    else faults.add(`${at(i)}.name`, `link "${clip(link.name)}" is there already, as links[${first}]`);
    validateMtu(link, at(i), faults);
  }
  const macs = links.map(({ match }) => match?.mac.toLowerCase());
  for (const [i, mac] of macs.entries())
    if (mac !== undefined && macs.indexOf(mac) !== i)
      faults.add(`${at(i)}.match.mac`, `link "${links[macs.indexOf(mac)]?.name}" has the same`);
  validateAddresses(links, facts, at, faults);
  validateGateways(links, at, faults);
  validateMade(links, byName, at, faults);
  // An answer to the first question of whoever is cut off by it.
  if (
    links.length > 0 &&
    !links.some(({ dhcp, addresses, acceptRa }) => dhcp || addresses.length > 0 || acceptRa === true)
  )
    faults.add(faults.at("links"), "no link gets an address: nobody could reach the capsule any more");
}

function validateName({ name, match, vlan, bond }: MachineLink, at: string, faults: Faults): void {
  if (!LINK.test(name))
    faults.add(`${at}.name`, `"${clip(name)}" is no name of a link: 1 to 15 of letters, digits, ".", "_" and "-"`);
  else if (name === "lo" || isWorkloadLink(name)) faults.add(`${at}.name`, `"${name}" is the capsule's own`);
  if (match === undefined) return;
  if (!MAC.test(match.mac))
    faults.add(`${at}.match.mac`, `"${clip(match.mac)}" is no address such as 52:54:00:12:34:56`);
  if (vlan !== undefined || bond !== undefined)
    faults.add(`${at}.match`, "a link that is made has nothing to be found by: leave it out");
}

function validateMtu({ mtu, addresses, gateway6 }: MachineLink, at: string, faults: Faults): void {
  if (mtu === 0) return;
  const least = gateway6 !== "" || addresses.some((text) => text.includes(":")) ? minMtu6 : minMtu;
  if (mtu < least || mtu > maxMtu) faults.add(`${at}.mtu`, `${mtu} is out of range: ${least} to ${maxMtu}`);
}

function validateAddresses(
  links: readonly MachineLink[],
  { workloadSubnets }: LinkFacts,
  at: (i: number) => string,
  faults: Faults,
): void {
  const seen: { readonly cidr: Cidr; readonly link: number }[] = [];
  const taken = workloadSubnets.flatMap((text) => parseCidr(text) ?? []);
  for (const [i, { addresses, dhcp }] of links.entries()) {
    if (addresses.length > maxAddresses) {
      faults.add(`${at(i)}.addresses`, `${addresses.length} addresses; at most ${maxAddresses} are taken`);
      continue;
    }
    for (const [j, text] of addresses.entries()) {
      const path = `${at(i)}.addresses[${j}]`;
      const cidr = parseCidr(text);
      if (cidr === undefined) {
        faults.add(path, `"${clip(text)}" is no address with its prefix, such as 192.0.2.10/24 or 2001:db8::10/64`);
        continue;
      }
      if (isSubnetItself(cidr)) faults.add(path, `${text} is the address of the subnet itself, or of all in it`);
      if (!isUsable(cidr.address)) faults.add(path, `${text} cannot be the address of a link`);
      if (dhcp && cidr.family === 4) faults.add(path, "IPv4 comes by DHCP here: either `dhcp: true` or addresses");
      const same = seen.find((one) => one.cidr.address === cidr.address);
      const other = seen.find((one) => one.link !== i && overlap(one.cidr, cidr));
      if (same !== undefined) faults.add(path, `${cidr.address} is there already, on link "${links[same.link]?.name}"`);
      else if (other !== undefined)
        faults.add(path, `its subnet overlaps that of ${other.cidr.text} on link "${links[other.link]?.name}"`);
      const workloads = taken.find((one) => overlap(one, cidr));
      if (workloads !== undefined) faults.add(path, `its subnet overlaps that of the workloads, ${workloads.text}`);
      seen.push({ cidr, link: i });
    }
  }
}

/** Loopback, multicast, link-local IPv6 (the kernel makes that), and nobody's. */
function isUsable(address: string): boolean {
  if (familyOf(address) === 6) return !/^(::1?$|ff|fe[89ab])/.test(address);
  const first = Number(address.split(".")[0]);
  return first !== 0 && first !== 127 && first < 224;
}

function validateGateways(links: readonly MachineLink[], at: (i: number) => string, faults: Faults): void {
  for (const [field, family] of [
    ["gateway", 4],
    ["gateway6", 6],
  ] as const) {
    let holder: string | undefined;
    for (const [i, link] of links.entries()) {
      const text = link[field];
      if (text === "") continue;
      const path = `${at(i)}.${field}`;
      const address = canonicalAddress(text);
      if (holder !== undefined) faults.add(path, `link "${holder}" has one already: one way out is all that is used`);
      holder ??= link.name;
      if (address === undefined || familyOf(address) !== family) {
        faults.add(path, `"${clip(text)}" is no IPv${family} address`);
        continue;
      }
      if (family === 4 && link.dhcp) {
        faults.add(path, "it comes by DHCP here: leave it out, or give `addresses` instead of `dhcp: true`");
        continue;
      }
      const own = link.addresses.flatMap((one) => parseCidr(one) ?? []);
      if (own.some((one) => one.address === address)) faults.add(path, `${text} is an address of the link itself`);
      else if (!own.some((one) => isInside(address, one)) && !/^fe[89ab]/.test(address))
        faults.add(path, `${text} is in no subnet of the link's addresses`);
    }
  }
}

function validateMade(
  links: readonly MachineLink[],
  byName: ReadonlyMap<string, number>,
  at: (i: number) => string,
  faults: Faults,
): void {
  const bonds = new Map<string, string>();
  const vlans = new Set<string>();
  for (const [i, { name, vlan, bond }] of links.entries()) {
    if (vlan !== undefined && bond !== undefined) faults.add(`${at(i)}.bond`, "a link is a VLAN or a bond, not both");
    if (vlan !== undefined) {
      if (vlan.id < 1 || vlan.id > 4_094) faults.add(`${at(i)}.vlan.id`, `${vlan.id} is out of range: 1 to 4094`);
      if (!byName.has(vlan.link)) faults.add(`${at(i)}.vlan.link`, notThere(vlan.link));
      const key = `${vlan.link} ${vlan.id}`;
      if (vlans.has(key))
        faults.add(`${at(i)}.vlan.id`, `VLAN ${vlan.id} of link "${clip(vlan.link)}" is there already`);
      vlans.add(key);
    }
    if (bond === undefined) continue;
    known(bond.mode, BondMode, `${at(i)}.bond.mode`, faults);
    if (bond.links.length === 0) faults.add(`${at(i)}.bond.links`, "a bond needs a link");
    for (const [j, below] of bond.links.entries()) {
      const path = `${at(i)}.bond.links[${j}]`;
      const member = links[byName.get(below) ?? -1];
      const other = bonds.get(below);
      if (member === undefined) faults.add(path, notThere(below));
      else if (other !== undefined) faults.add(path, `link "${below}" is in the bond "${other}" already`);
      else if (member.vlan !== undefined || member.bond !== undefined)
        faults.add(path, `link "${below}" is made itself: a bond is of the machine's own links`);
      else if (member.dhcp || member.acceptRa === true || member.addresses.length > 0)
        faults.add(path, `link "${below}" is part of the bond "${clip(name)}": the bond has the addresses, not it`);
      bonds.set(below, name);
    }
    if (bond.primary === "") continue;
    if (!bond.links.includes(bond.primary))
      faults.add(`${at(i)}.bond.primary`, `"${clip(bond.primary)}" is no link of it`);
    if (bond.mode !== BondMode.UNSPECIFIED && bond.mode !== BondMode.ACTIVE_BACKUP)
      faults.add(`${at(i)}.bond.primary`, "only ACTIVE_BACKUP has a primary");
  }
  for (const [i, { vlan }] of links.entries()) {
    const below = vlan?.link ?? "";
    const bond = bonds.get(below);
    if (bond !== undefined)
      faults.add(`${at(i)}.vlan.link`, `link "${below}" is part of the bond "${bond}": make the VLAN on that`);
    if (isCircle(links, byName, i)) faults.add(`${at(i)}.vlan.link`, "it leads back to itself");
  }
}

function isCircle(links: readonly MachineLink[], byName: ReadonlyMap<string, number>, start: number): boolean {
  let now: number | undefined = start;
  for (let steps = 0; steps <= links.length; steps++) {
    now = byName.get(links[now]?.vlan?.link ?? "");
    if (now === undefined) return false;
    if (now === start) return true;
  }
  return false;
}

function notThere(name: string): string {
  return name === ""
    ? "the name of a link is needed"
    : `link "${clip(name)}" is not in the document: name it there too`;
}
