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

type Kept = (StringAnswer & { type: "PTR" | "A" | "AAAA" }) | SrvAnswer | TxtAnswer;

interface Entry {
  readonly link: string;
  readonly record: Kept;
  readonly ttlMs: number;
  readonly heardMs: number;
  expiresMs: number;
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

  /** Pointers to capsules on a link that hold for at least half of their life: who answers need not say them again. */
  known(link: string, nowMs: number): Kept[] {
    return [...this.#entries.values()]
      .filter((one) => one.link === link && one.record.type === "PTR" && one.expiresMs - nowMs >= one.ttlMs / 2)
      .map(({ record, expiresMs }) => ({ ...record, ttl: Math.floor((expiresMs - nowMs) / 1_000) }));
  }

  /** All capsules of which name, address and description are known. In a fixed order. */
  sightings(): Sighting[] {
    const entries = [...this.#entries.values()];
    const found = entries.flatMap(({ link, record: pointer }) => {
      if (pointer.type !== "PTR") return [];
      const here = entries.filter((one) => one.link === link).map(({ record }) => record);
      const text = here.find((one) => one.type === "TXT" && same(one.name, pointer.data));
      const service = here.find((one) => one.type === "SRV" && same(one.name, pointer.data));
      if (text?.type !== "TXT" || service?.type !== "SRV") return [];
      const announced = announcedOf(text.data);
      if (announced === undefined) return [];
      const { target, port } = service.data;
      const endpoints = here.flatMap((one) => {
        if ((one.type !== "A" && one.type !== "AAAA") || !same(one.name, target)) return [];
        return [one.type === "A" ? `${one.data}:${port}` : `[${withZone(one.data, link)}]:${port}`];
      });
      if (endpoints.length === 0) return [];
      return [{ instance: pointer.data, link, announced, endpoints: endpoints.sort(byEase) }];
    });
    return found.sort((a, b) => compare(a.instance, b.instance) || compare(a.link, b.link));
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
