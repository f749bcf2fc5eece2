/**
 * From the links as they are to the links as they are wanted: pure, and nothing to do when they are so. A link that the
 * document names is taken over whole; what it had before is kept, and given back when the document lets go of it.
 */
import { acceptRaPath, disableIpv6Path, type Observed } from "./observe.ts";
import type { Made, WantedLink } from "./wanted.ts";

/** What is ours; kept in /run before it is acted on, so that nothing is forgotten by a kill. */
export interface Owned {
  /** Links that were there, with what they had when they were taken over. */
  readonly taken: Readonly<Record<string, Baseline>>;
  /** Links that were made, in this order, and of what. */
  readonly made: readonly { readonly name: string; readonly signature: string }[];
}

export interface Baseline {
  readonly up: boolean;
  readonly mtu: number;
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  /** As in the kernel. */
  readonly acceptRa: number;
}

export const nothingOwned: Owned = { taken: {}, made: [] };

export type Step =
  /** A line for `ip -batch`. */
  | { readonly kind: "ip"; readonly line: string }
  | { readonly kind: "setting"; readonly path: string; readonly value: string };

export interface Plan {
  readonly steps: readonly Step[];
  /** What is ours while the steps are carried out. */
  readonly during: Owned;
  /** And after them. */
  readonly after: Owned;
}

/** What a link shall have, wanted or given back. */
type Target = Omit<Baseline, "mtu"> & {
  readonly name: string;
  readonly mtu: number | undefined;
  readonly dhcp: boolean;
};

/**
 * `baselineOf` tells what a link goes back to that is taken over now: on a machine nothing, for what it has is a lease of the
 * default's; in a namespace what its maker gave it.
 */
export function planLinks(
  wanted: readonly WantedLink[],
  owned: Owned,
  observed: readonly Observed[],
  baselineOf: (link: Observed) => Baseline,
): Plan {
  const there = new Map(observed.map((link) => [link.name, link]));
  const byName = new Map(wanted.map((link) => [link.name, link]));
  const signatures = new Map(
    wanted.flatMap((link) => (link.made === undefined ? [] : [[link.name, signatureOf(link.made, byName)] as const])),
  );
  const gone = goneOf(owned, there, byName, signatures);
  const taken: Record<string, Baseline> = {};
  for (const { name, made } of wanted) {
    const link = there.get(name);
    if (made === undefined && link !== undefined) taken[name] = owned.taken[name] ?? baselineOf(link);
  }
  const released = Object.entries(owned.taken).filter(([name]) => taken[name] === undefined && there.has(name));
  const targets: Target[] = [
    ...released.map(([name, baseline]) => ({ ...baseline, name, dhcp: false })),
    // Forwarding is on (network/ip.ts): then only 2 takes advertisements.
    ...wanted.map((link) => ({
      ...link,
      mtu: link.mtu ?? taken[link.name]?.mtu,
      up: true,
      acceptRa: link.acceptRa ? 2 : 0,
    })),
  ];
  const fresh: Observed = {
    ...{ name: "", mac: "", up: false, mtu: 0, kind: "", master: undefined, primary: undefined },
    ...{ addresses: [], defaults: [], acceptRa: undefined },
  };
  const presentOf = (name: string): Observed => (gone.has(name) ? fresh : (there.get(name) ?? fresh));
  const members = new Map(
    wanted.flatMap(({ name, made }) =>
      made?.kind === "bond" ? made.members.map((member) => [member, name] as const) : [],
    ),
  );
  const without = new Map(
    targets.map((target) => [
      target.name,
      withoutSteps(target, presentOf(target.name), members.get(target.name), gone),
    ]),
  );
  const made = [...signatures].map(([name, signature]) => ({ name, signature }));
  const releasedNow = Object.fromEntries(released);
  return {
    steps: [
      // In reverse: a link goes before what it is made of.
      ...[...gone].reverse().map((name) => ip(`link delete ${name}`)),
      // What is taken away goes first everywhere: an address or a route may move from one link to another.
      ...[...without.values()].flat(),
      ...targets.flatMap((target) => {
        const present = presentOf(target.name);
        const wantedMade = byName.get(target.name)?.made;
        return [
          ...(wantedMade === undefined || present !== fresh ? [] : [makeStep(target.name, wantedMade)]),
          ...(wantedMade?.kind === "bond" ? bondSteps(target.name, wantedMade, there, gone) : []),
          ...withSteps(target, present, members.get(target.name), without.get(target.name)?.length !== 0),
        ];
      }),
    ],
    // A link that was made is ours from before it is there.
    during: {
      taken: { ...taken, ...releasedNow },
      made: [...owned.made.filter(({ name }) => !signatures.has(name)), ...made],
    },
    after: { taken, made },
  };
}

/** Links that were made and are not to be, or not as they are; in the order in which they were made. */
function goneOf(
  owned: Owned,
  there: ReadonlyMap<string, Observed>,
  byName: ReadonlyMap<string, WantedLink>,
  signatures: ReadonlyMap<string, string>,
): ReadonlySet<string> {
  const known = new Set(owned.made.map(({ name }) => name));
  // Of a wanted name, and made by somebody else: it is made anew, and then it is as it is said.
  const gone = new Set([...signatures.keys()].filter((name) => there.has(name) && !known.has(name)));
  for (const { name, signature } of owned.made) {
    const made = byName.get(name)?.made;
    // A VLAN goes with what is below it.
    const isOther = signatures.get(name) !== signature || (made?.kind === "vlan" && gone.has(made.parent));
    // ip(8) has no way to say that a bond prefers none.
    const prefers = made?.kind === "bond" && made.primary === undefined && there.get(name)?.primary !== undefined;
    if (there.has(name) && (isOther || prefers)) gone.add(name);
  }
  return gone;
}

/** Another one when the link must be made anew; a VLAN goes with what is below it. */
function signatureOf(made: Made, byName: ReadonlyMap<string, WantedLink>): string {
  if (made.kind === "bond") return `bond ${made.mode}`;
  const below = byName.get(made.parent)?.made;
  return `vlan ${made.id} ${made.parent}${below === undefined ? "" : ` (${signatureOf(below, byName)})`}`;
}

function makeStep(name: string, made: Made): Step {
  if (made.kind === "vlan") return ip(`link add link ${made.parent} name ${name} type vlan id ${made.id}`);
  // Links are watched by their carrier; without this a bond never notices that one is dead.
  return ip(`link add name ${name} type bond mode ${made.mode} miimon 100`);
}

/** The driver takes a link only while it is down, and a primary only once it has it. */
function bondSteps(
  name: string,
  made: Extract<Made, { kind: "bond" }>,
  there: ReadonlyMap<string, Observed>,
  gone: ReadonlySet<string>,
): Step[] {
  const joining = made.members.filter((member) => gone.has(name) || there.get(member)?.master !== name);
  const joins = joining.flatMap((member) => [
    ip(`link set ${member} down`),
    ip(`link set ${member} master ${name}`),
    ip(`link set ${member} up`),
  ]);
  const { primary } = made;
  const isPreferred = joining.length === 0 && there.get(name)?.primary === primary;
  const prefers = primary === undefined || isPreferred ? [] : [ip(`link set ${name} type bond primary ${primary}`)];
  return [...joins, ...prefers];
}

/** What a link loses. */
function withoutSteps(target: Target, present: Observed, bond: string | undefined, gone: ReadonlySet<string>): Step[] {
  const { name } = target;
  const leaves = present.master !== undefined && present.master !== bond && !gone.has(present.master);
  const extra = present.addresses.filter(({ text, family, dynamic }) => {
    if (dynamic) return target.acceptRa === 0;
    // What a lease gives is its client's (image/files/usr/lib/capsule/udhcpc).
    return !target.addresses.includes(text) && !(target.dhcp && family === 4);
  });
  const routes = present.defaults.filter(({ family, gateway, protocol }) => {
    if (protocol === "ra") return target.acceptRa === 0;
    return !target.gateways.includes(gateway) && !(target.dhcp && family === 4);
  });
  return [
    ...(leaves ? [ip(`link set ${name} nomaster`)] : []),
    ...routes.map(({ gateway }) => ip(`route delete default via ${gateway} dev ${name}`)),
    ...extra.map(({ text }) => ip(`address delete ${text} dev ${name}`)),
  ];
}

/** What a link gets. `isDisturbed`: steps before these may have taken more of it than they say. */
function withSteps(target: Target, present: Observed, bond: string | undefined, isDisturbed: boolean): Step[] {
  const { name, mtu, up, acceptRa } = target;
  const steps: Step[] = [];
  const wasReleased = present.master !== undefined && present.master !== bond;
  let disturbed = isDisturbed || wasReleased || present.name === "";
  if (present.name === "" || (present.acceptRa !== undefined && present.acceptRa !== acceptRa)) {
    steps.push(setting(acceptRaPath(name), acceptRa));
    if (acceptRa === 2 && present.up) {
      // It asks for routers when IPv6 begins on it, and else waits for what they say every ten minutes.
      steps.push(setting(disableIpv6Path(name), 1), setting(disableIpv6Path(name), 0));
      disturbed = true;
    }
  }
  if (mtu !== undefined && present.mtu !== mtu) steps.push(ip(`link set ${name} mtu ${mtu}`));
  // Its bond raises a member; and the driver of bonds leaves one down that it lets go.
  if (bond === undefined && (present.up !== up || wasReleased)) {
    steps.push(ip(`link set ${name} ${up ? "up" : "down"}`));
    disturbed = true;
  }
  // The kernel takes routes away with the last address of a link, and further addresses of a subnet with the first.
  const has = new Set(disturbed ? [] : present.addresses.map(({ text }) => text));
  for (const text of target.addresses) if (!has.has(text)) steps.push(ip(`address replace ${text} dev ${name}`));
  const routed = disturbed ? [] : present.defaults.filter(({ protocol }) => protocol !== "ra");
  for (const gateway of target.gateways) {
    if (!routed.some((one) => one.gateway === gateway))
      steps.push(ip(`route replace default via ${gateway} dev ${name} proto static`));
  }
  return steps;
}

function setting(path: string, value: number): Step {
  return { kind: "setting", path, value: String(value) };
}

function ip(line: string): Step {
  return { kind: "ip", line };
}

/** What a link has now, as the baseline that it goes back to. */
export function presentBaseline({ up, mtu, addresses, defaults, acceptRa }: Observed): Baseline {
  return {
    up,
    mtu,
    addresses: addresses.filter(({ dynamic }) => !dynamic).map(({ text }) => text),
    gateways: defaults.filter(({ protocol }) => protocol !== "ra").map(({ gateway }) => gateway),
    acceptRa: acceptRa ?? 1,
  };
}

/** Of a machine: the default gives it what it needs. */
export function emptyBaseline({ mtu }: Observed): Baseline {
  return { up: true, mtu, addresses: [], gateways: [], acceptRa: 1 };
}
