/**
 * What was heard by multicast DNS of capsules, as long as it holds (RFC 6762, section 10). Times are arguments, in
 * milliseconds of any clock that only goes forward. Nothing in here is more than what somebody on the network has said.
 */
import { withZone } from "@capsule/api/mdns/links.ts";
import { type Announced, announcedOf, serviceType } from "@capsule/api/mdns/service.ts";
import type { Answer, SrvAnswer, StringAnswer, TxtAnswer } from "dns-packet";

/** A capsule as it was announced on one link. */
export interface Sighting {
  readonly instance: string;
  readonly link: string;
  readonly announced: Announced;
  /** HOST:PORT, as one connects to it. */
  readonly endpoints: readonly string[];
}

type Pointer = StringAnswer & { type: "PTR" };
type Address = StringAnswer & { type: "A" | "AAAA" };
type Kept = Pointer | Address | SrvAnswer | TxtAnswer;

interface Entry<Record extends Kept = Kept> {
  readonly link: string;
  readonly record: Record;
  readonly ttlMs: number;
  readonly heardMs: number;
  expiresMs: number;
}

/** A capsule of which all is known. */
interface Described {
  readonly pointer: Entry<Pointer>;
  readonly service: Entry<SrvAnswer>;
  readonly text: Entry<TxtAnswer>;
  readonly addresses: readonly Entry<Address>[];
}

/** Whoever sends more than this of names fills no more memory. */
const mostEntries = 2_000;
/** A record that is taken back or replaced holds so long: it may have been said again by another one. */
const graceMs = 1_000;
/** A record that was not heard again is asked for at these parts of its life. */
const refreshAt = [0.8, 0.85, 0.9, 0.95];

export class Cache {
  readonly #entries = new Map<string, Entry>();

  /** Keeps what of a response is about capsules. */
  hear(link: string, answers: readonly Answer[], nowMs: number): void {
    const records = answers.filter(isKept);
    // Addresses are of interest beside a capsule's other records only.
    if (!records.some(isOfService) && !records.some(({ name }) => this.#isTarget(link, name))) return;
    for (const record of records) this.#take(link, record, nowMs);
  }

  #isTarget(link: string, host: string): boolean {
    return [...this.#entries.values()].some(
      (one) => one.link === link && one.record.type === "SRV" && same(one.record.data.target, host),
    );
  }

  #take(link: string, record: Kept, nowMs: number): void {
    const key = keyOf(link, record);
    const ttlMs = (record.ttl ?? 0) * 1_000;
    if (record.flush === true) {
      for (const [other, entry] of this.#entries) {
        const { name, type } = entry.record;
        // What came in the same moment belongs to the same set.
        if (other !== key && entry.link === link && type === record.type && same(name, record.name))
          if (nowMs - entry.heardMs > graceMs) entry.expiresMs = Math.min(entry.expiresMs, nowMs + graceMs);
      }
    }
    const known = this.#entries.get(key);
    if (ttlMs === 0) {
      if (known !== undefined) known.expiresMs = Math.min(known.expiresMs, nowMs + graceMs);
      return;
    }
    if (known === undefined && this.#entries.size >= mostEntries) return;
    this.#entries.set(key, { link, record, ttlMs, heardMs: nowMs, expiresMs: nowMs + ttlMs });
  }

  /** Forgets what holds no more. */
  expire(nowMs: number): void {
    for (const [key, { expiresMs }] of this.#entries) if (expiresMs <= nowMs) this.#entries.delete(key);
  }

  /** Forgets a link that is gone. */
  forget(link: string): void {
    for (const [key, entry] of this.#entries) if (entry.link === link) this.#entries.delete(key);
  }

  /** When something expires, or is to be asked for again; infinite when nothing is known. */
  nextDueMs(nowMs: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { heardMs, ttlMs, expiresMs } of this.#entries.values()) {
      for (const at of [expiresMs, ...refreshAt.map((part) => heardMs + part * ttlMs)])
        if (at > nowMs) next = Math.min(next, at);
    }
    return next;
  }

  /**
   * Pointers to capsules on a link that hold for at least half of their life, with all that they lead to: who answers need not
   * say them again. A pointer of avahi's lives for 75 minutes and an address for two, and the address comes with the pointer.
   */
  known(link: string, nowMs: number): Kept[] {
    const holds = ({ expiresMs, ttlMs }: Entry): boolean => expiresMs - nowMs >= ttlMs / 2;
    return this.#described()
      .filter(({ pointer, service, text, addresses }) => {
        return pointer.link === link && [pointer, service, text, ...addresses].every(holds);
      })
      .map(({ pointer: { record, expiresMs } }) => {
        return { ...record, ttl: Math.floor((expiresMs - nowMs) / 1_000), flush: false };
      });
  }

  /** All capsules of which name, address and description are known. In a fixed order. */
  sightings(): Sighting[] {
    const found = this.#described().flatMap(({ pointer, service, text, addresses }) => {
      const announced = announcedOf(text.record.data);
      if (announced === undefined) return [];
      const { link, record } = pointer;
      const { port } = service.record.data;
      const endpoints = addresses.map(({ record: { type, data } }) =>
        type === "A" ? `${data}:${port}` : `[${withZone(data, link)}]:${port}`,
      );
      return [{ instance: record.data, link, announced, endpoints: endpoints.sort(byEase) }];
    });
    return found.sort((a, b) => compare(a.instance, b.instance) || compare(a.link, b.link));
  }

  /** All pointers that lead to an address, with what they lead to. By name: going through all for each was twenty times slower with 400 (120 ms a packet). */
  #described(): Described[] {
    const byName = Map.groupBy(this.#entries.values(), ({ link, record }) => `${link} ${record.name.toLowerCase()}`);
    return [...this.#entries.values()].filter(isPointer).flatMap((pointer) => {
      const named = (name: string): Entry[] => byName.get(`${pointer.link} ${name.toLowerCase()}`) ?? [];
      const instance = named(pointer.record.data);
      const [service, text] = [instance.find(isService), instance.find(isText)];
      if (service === undefined || text === undefined) return [];
      const addresses = named(service.record.data.target).filter(isAddress);
      return addresses.length === 0 ? [] : [{ pointer, service, text, addresses }];
    });
  }
}

/** IPv4 before IPv6, and addresses that hold on one link only last: that is how a person writes them down. */
export function byEase(a: string, b: string): number {
  const rank = (endpoint: string): number => (endpoint.includes("%") ? 2 : endpoint.startsWith("[") ? 1 : 0);
  return rank(a) - rank(b) || compare(a, b);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function isKept(answer: Answer): answer is Kept {
  return ["PTR", "SRV", "TXT", "A", "AAAA"].includes(answer.type) && (answer.type !== "PTR" || isOfService(answer));
}

function isPointer(entry: Entry): entry is Entry<Pointer> {
  return entry.record.type === "PTR";
}

function isService(entry: Entry): entry is Entry<SrvAnswer> {
  return entry.record.type === "SRV";
}

function isText(entry: Entry): entry is Entry<TxtAnswer> {
  return entry.record.type === "TXT";
}

function isAddress(entry: Entry): entry is Entry<Address> {
  return entry.record.type === "A" || entry.record.type === "AAAA";
}

function isOfService({ type, name }: Answer): boolean {
  const lower = name.toLowerCase();
  return type === "PTR" ? lower === serviceType : lower.endsWith(`.${serviceType}`);
}

function keyOf(link: string, { type, name, data }: Kept): string {
  return `${link} ${type} ${name.toLowerCase()} ${JSON.stringify(data)}`;
}

/** Of DNS: capitals make no difference. */
function same(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}
