/** The links of a document as the kernel will have them: names found by hardware address, defaults filled in. Pure. */
import { BondMode, type MachineLink } from "@capsule/api";
import { canonicalAddress, parseCidr } from "./cidr.ts";
import type { Observed } from "./observe.ts";

export interface WantedLink {
  /** The kernel's. */
  readonly name: string;
  readonly dhcp: boolean;
  /** In the spelling of ip(8), with their prefixes. */
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  /** The link's own when undefined. */
  readonly mtu: number | undefined;
  readonly acceptRa: boolean;
  readonly made: Made | undefined;
}

/** A link that is made of others; names are the kernel's. */
export type Made =
  | { readonly kind: "vlan"; readonly parent: string; readonly id: number }
  | {
      readonly kind: "bond";
      readonly members: readonly string[];
      readonly mode: string;
      readonly primary: string | undefined;
    };

/** As in the kernel's bonding driver (Documentation/networking/bonding.rst). */
const modes: Record<BondMode, string> = {
  [BondMode.UNSPECIFIED]: "active-backup",
  [BondMode.ACTIVE_BACKUP]: "active-backup",
  [BondMode.LACP]: "802.3ad",
  [BondMode.BALANCE_RR]: "balance-rr",
  [BondMode.BALANCE_XOR]: "balance-xor",
  [BondMode.BALANCE_TLB]: "balance-tlb",
  [BondMode.BALANCE_ALB]: "balance-alb",
};

/**
 * What is below comes before what is made of it. Links that are not there, and what would be made of them, are left out and
 * told in `faults`. The document must be valid.
 */
export function wantedLinks(
  links: readonly MachineLink[],
  observed: readonly Observed[],
): { readonly links: readonly WantedLink[]; readonly faults: readonly string[] } {
  const faults: string[] = [];
  const byName = new Map(links.map((link) => [link.name, link]));
  const done = new Map<string, WantedLink | undefined>();
  const visit = (link: MachineLink): WantedLink | undefined => {
    if (done.has(link.name)) return done.get(link.name);
    const below = [link.vlan?.link, ...(link.bond?.links ?? [])].flatMap((name) => byName.get(name ?? "") ?? []);
    const found = below.map(visit);
    const wanted = resolve(link, found, observed, faults);
    done.set(link.name, wanted);
    return wanted;
  };
  for (const link of links) visit(link);
  return { links: [...done.values()].filter((link) => link !== undefined), faults };
}

function resolve(
  link: MachineLink,
  below: readonly (WantedLink | undefined)[],
  observed: readonly Observed[],
  faults: string[],
): WantedLink | undefined {
  const made = madeOf(link, below);
  const name = made === undefined ? physicalName(link, observed) : link.name;
  if (name === undefined) {
    const mac = link.match?.mac;
    faults.push(`link ${link.name} is not there${mac === undefined ? "" : ` (nothing has the address ${mac})`}`);
    return undefined;
  }
  // One missing link of a bond is what bonds are for.
  if (made !== undefined && below.every((one) => one === undefined)) {
    faults.push(`link ${link.name} cannot be made: nothing that it is made of is there`);
    return undefined;
  }
  return {
    name,
    dhcp: link.dhcp,
    addresses: link.addresses.map((text) => parseCidr(text)?.text ?? text),
    gateways: [link.gateway, link.gateway6].flatMap((text) => canonicalAddress(text) ?? []),
    mtu: link.mtu === 0 ? undefined : link.mtu,
    acceptRa: link.acceptRa ?? link.dhcp,
    made,
  };
}

/** `below` in the order of the document's names. */
function madeOf({ vlan, bond }: MachineLink, below: readonly (WantedLink | undefined)[]): Made | undefined {
  if (vlan !== undefined) return { kind: "vlan", parent: below[0]?.name ?? "", id: vlan.id };
  if (bond === undefined) return undefined;
  const members = below.flatMap((one) => one?.name ?? []);
  return { kind: "bond", members, mode: modes[bond.mode], primary: below[bond.links.indexOf(bond.primary)]?.name };
}

/** VLANs and bonds have hardware addresses of the links below them: those are the ones that are meant. */
function physicalName({ name, match }: MachineLink, observed: readonly Observed[]): string | undefined {
  if (match === undefined) return observed.find((one) => one.name === name)?.name;
  const mac = match.mac.toLowerCase();
  return observed.find((one) => one.kind !== "vlan" && one.kind !== "bond" && one.mac === mac)?.name;
}
