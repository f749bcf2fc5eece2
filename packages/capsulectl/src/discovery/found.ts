/** Capsules of a network, one entry each: what was announced of them and what they say themselves, put together. Pure. */
import type { Config } from "../config.ts";
import { byEase, type Sighting } from "./cache.ts";
import type { Identified } from "./identify.ts";

/** A capsule, as `discover` shows it and gives it as JSON. */
export interface Found {
  /** Host name, as the capsule says itself; its announced name when it does not answer. */
  readonly name: string;
  readonly capsuleId: string;
  readonly shortId: string;
  /** HOST:PORT where it answered, the easiest to write first; the announced ones when it does not answer. */
  readonly addresses: readonly string[];
  readonly adopted: boolean;
  readonly version: string;
  readonly mode: string;
  /** Of the server's certificate, read from the server, lower-case hex; empty when it does not answer. */
  readonly fingerprint: string;
  /** Your context of this capsule: same id, same fingerprint. Empty when you have none. */
  readonly context: string;
  /** Your context whose id it claims, while its fingerprint is another one than the pinned. Empty, as it should be. */
  readonly impersonates: string;
}

/** Same identity and same key are one capsule, at however many addresses. In the order of names. */
export function foundOf(
  sightings: readonly Sighting[],
  identified: ReadonlyMap<string, Identified | undefined>,
  contexts: Config["contexts"],
): Found[] {
  const found = new Map<string, Found>();
  const add = (key: string, one: Found): void => {
    const addresses = [...new Set([...(found.get(key)?.addresses ?? []), ...one.addresses])].sort(byEase);
    found.set(key, { ...one, addresses });
  };
  const answering = new Set<string>();
  for (const one of new Set(sightings.flatMap(({ endpoints }) => endpoints))) {
    const identity = identified.get(one);
    if (identity === undefined) continue;
    const { hostname, capsuleId, shortId, adopted, version, mode, fingerprint } = identity;
    answering.add(capsuleId);
    const facts = { name: hostname, capsuleId, shortId, adopted, version, mode, fingerprint };
    add(`${capsuleId} ${fingerprint}`, { ...facts, addresses: [one], ...contextsOf(identity, contexts) });
  }
  for (const { instance, announced, endpoints } of sightings) {
    if (answering.has(announced.capsuleId) || endpoints.some((one) => identified.get(one) !== undefined)) continue;
    const name = instance.replace(/ .*$/, "");
    add(announced.capsuleId, {
      ...announced,
      name,
      addresses: endpoints,
      fingerprint: "",
      context: "",
      impersonates: "",
    });
  }
  return [...found.values()].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
}

function contextsOf(
  { capsuleId, fingerprint }: Identified,
  contexts: Config["contexts"],
): Pick<Found, "context" | "impersonates"> {
  const same = Object.entries(contexts).filter(([, context]) => context.capsuleId === capsuleId);
  const names = (isPinned: boolean): string =>
    same
      .filter(([, context]) => (context.fingerprint === fingerprint) === isPinned)
      .map(([name]) => name)
      .join(",");
  const context = names(true);
  return { context, impersonates: context === "" ? names(false) : "" };
}

/** The same for the same capsule, whatever changes of it. */
export function keyOf({ capsuleId, fingerprint }: Found): string {
  return `${capsuleId} ${fingerprint}`;
}
