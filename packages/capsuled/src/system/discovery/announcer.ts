/**
 * Announces the capsule by multicast DNS on each of its links, and follows them: links that come and go, addresses, the host
 * name, what it says of itself. It is a service to people who look for the capsule, and nothing depends on it: whatever fails
 * is logged and tried again.
 */
import type { Link } from "@capsule/api/mdns/links.ts";
import { readLinks, sameLink } from "@capsule/api/mdns/links.ts";
import type { Announced } from "@capsule/api/mdns/service.ts";
import type { Logger } from "pino";
import { backoffMs } from "../../backoff.ts";
import { addressesNow, carriersOf } from "./change.ts";
import { addressRecords, namesOf, recordsOf, type Said, type Taken } from "./records.ts";
import { Responder } from "./responder.ts";

export interface AnnouncedFacts extends Announced {
  readonly hostname: string;
}

export interface AnnouncerOptions {
  /** Asked again with each look. */
  readonly facts: () => AnnouncedFacts;
  /** Port of the API. */
  readonly port: number;
  /** Interfaces that lead to no people: the workloads' bridge and links. */
  readonly isExcluded: (interfaceName: string) => boolean;
  readonly log: Logger;
}

/** How often it looks whether an address, a carrier or the host name has changed, and at the links whatever has; in milliseconds. */
const glanceMs = 2_000;
const lookMs = 30_000;
/** Taking everything back may hold up a shutdown for so long; in milliseconds. */
const goodbyeMs = 500;
/** After so many names that were taken within this time somebody plays a game: then one at a time (RFC 6762, section 8.1). */
const mostTaken = 15;
const mostTakenWithinMs = 10_000;
const pauseMs = 5_000;

interface Speaking {
  readonly link: Link;
  readonly responder: Responder;
}

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #speaking = new Map<string, Speaking>();
  /** Links that failed: how often, and when (by performance.now) the next try is due. */
  readonly #failed = new Map<string, { readonly times: number; readonly dueMs: number }>();
  #own: ReadonlySet<string> = new Set();
  #hostname = "";
  #nth = { instance: 0, host: 0 };
  #takenAtMs: number[] = [];
  #silentUntilMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #seen = "";
  /** All links that there have been: one that is gone may come back. */
  readonly #names = new Set<string>();

  constructor(options: AnnouncerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => this.#glance(), glanceMs).unref();
    this.refresh();
  }

  #glance(): void {
    try {
      const seen = `${addressesNow(this.#options.isExcluded)}\n${carriersOf(this.#names)}`;
      const isSame = seen === this.#seen && this.#options.facts().hostname === this.#hostname;
      this.#seen = seen;
      // What failed or is paused is due by time alone.
      const isDue = this.#failed.size > 0 || this.#speaking.size === 0;
      if (!isSame || isDue || performance.now() - this.#lookedAtMs >= lookMs) this.refresh();
    } catch (error) {
      this.#options.log.warn({ err: error }, "looking for changes of the links failed");
    }
  }

  /** Looks now: something that is announced has changed. Never throws. */
  refresh(): void {
    if (this.#timer === undefined) return;
    try {
      this.#look();
    } catch (error) {
      this.#options.log.warn({ err: error }, "looking at the links for announcements failed");
    }
  }

  /** Takes back all that was announced. Never throws, and takes half a second at most. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const said = this.#silence({ goodbye: true });
    await Promise.race([said, new Promise((resolve) => setTimeout(resolve, goodbyeMs).unref())]);
  }

  #look(): void {
    this.#lookedAtMs = performance.now();
    const facts = this.#options.facts();
    const links = new Map(readLinks(this.#options.isExcluded).map((link) => [link.name, link]));
    this.#own = new Set([...links.values()].flatMap(({ addresses }) => addresses.map(({ address }) => address)));
    if (facts.hostname !== this.#hostname) {
      this.#hostname = facts.hostname;
      this.#nth = { instance: 0, host: 0 };
      void this.#silence({ goodbye: true });
    }
    const now = performance.now();
    if (now < this.#silentUntilMs) return;
    for (const name of [...this.#speaking.keys(), ...this.#failed.keys()]) if (!links.has(name)) this.#forget(name);
    for (const link of links.values()) {
      this.#names.add(link.name);
      const speaking = this.#speaking.get(link.name);
      if (speaking === undefined) {
        if (now >= (this.#failed.get(link.name)?.dueMs ?? 0)) this.#speak(link, facts, []);
      } else if (!sameLink(speaking.link, link)) {
        this.#forget(link.name);
        this.#speak(link, facts, gone(speaking, link));
      } else this.#tell(speaking, facts);
    }
  }

  #speak(link: Link, facts: AnnouncedFacts, former: readonly Said[]): void {
    const { log, port } = this.#options;
    const names = namesOf(facts.hostname, facts.shortId, this.#nth);
    const responder: Responder = new Responder({
      link,
      records: recordsOf(names, facts, port, link),
      former,
      own: () => this.#own,
      onAnnounced: () => {
        this.#failed.delete(link.name);
        log.info({ link: link.name, instance: names.instance, host: names.host }, "announced");
      },
      onTaken: (taken) => this.#rename(taken, responder),
      onFailed: (error) => this.#retry(link.name, responder, error),
    });
    this.#speaking.set(link.name, { link, responder });
    void responder.start();
  }

  /** Says what has changed, if anything has. */
  #tell({ link, responder }: Speaking, facts: AnnouncedFacts): void {
    const records = recordsOf(responder.records.names, facts, this.#options.port, link);
    if (JSON.stringify(records) !== JSON.stringify(responder.records)) responder.update(records);
  }

  #rename(taken: readonly Taken[], responder: Responder): void {
    const { names } = responder.records;
    for (const one of taken) {
      this.#nth[one]++;
      this.#options.log.warn({ name: names[one] }, "somebody else on the network has this name: another one is taken");
    }
    const now = performance.now();
    this.#takenAtMs = [...this.#takenAtMs.filter((at) => now - at < mostTakenWithinMs), now];
    if (this.#takenAtMs.length >= mostTaken) this.#silentUntilMs = now + pauseMs;
    void this.#silence({ goodbye: true });
    setImmediate(() => this.refresh());
  }

  #retry(name: string, responder: Responder, error: Error): void {
    if (this.#speaking.get(name)?.responder !== responder) return;
    const times = (this.#failed.get(name)?.times ?? 0) + 1;
    const waitMs = backoffMs(times);
    this.#forget(name);
    this.#failed.set(name, { times, dueMs: performance.now() + waitMs });
    this.#options.log.warn({ err: error, link: name, waitMs }, "announcing failed; it is tried again");
  }

  /** What leads nowhere any more is not taken back: there is nobody to hear it. */
  #forget(name: string): void {
    void this.#speaking.get(name)?.responder.close({ goodbye: false });
    this.#speaking.delete(name);
    this.#failed.delete(name);
  }

  async #silence(how: { readonly goodbye: boolean }): Promise<void> {
    const all = [...this.#speaking.values()];
    this.#speaking.clear();
    await Promise.all(all.map(({ responder }) => responder.close(how)));
  }
}

/** What the link had of addresses and has no more. */
function gone({ link: before, responder }: Speaking, after: Link): Said[] {
  const kept = new Set(after.addresses.map(({ address }) => address));
  const addresses = before.addresses.filter(({ address }) => !kept.has(address));
  return addressRecords(responder.records.names, { addresses });
}
