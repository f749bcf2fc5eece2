/**
 * Says on one link who the capsule is (RFC 6762): asks first whether its names are free, tells what it has, answers, takes
 * it back. Its states:
 *
 *   probing ──nobody has the names──▶ announced ──somebody contradicts──▶ probing
 *      └──somebody has one: `onTaken`, and whoever made it makes another with other names
 *
 * Nothing is answered while probing. After `close` nothing is sent.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Link } from "@capsule/api/mdns/links.ts";
import { mdnsPort } from "@capsule/api/mdns/packet.ts";
import { LinkSocket, type Sender } from "@capsule/api/mdns/socket.ts";
import type { Answer, DecodedPacket, Question } from "dns-packet";
import {
  goodbyeOf,
  legacyOf,
  losesTo,
  probeQuestions,
  type Records,
  replyTo,
  type Said,
  type Taken,
  takenBy,
} from "./records.ts";

export interface ResponderOptions {
  readonly link: Link;
  readonly records: Records;
  /** Records that the link had before, and that are to be taken back with the first announcement. */
  readonly former: readonly Said[];
  /** All addresses of the capsule, on whatever link. */
  readonly own: () => ReadonlySet<string>;
  readonly onAnnounced: () => void;
  readonly onTaken: (taken: readonly Taken[]) => void;
  /** Whatever the network or the system does: told, and the responder is of no use any more. */
  readonly onFailed: (error: Error) => void;
}

// All in milliseconds; RFC 6762, sections 6 and 8.
const probes = 3;
const betweenProbesMs = 250;
const announcementsMs = [0, 1_000, 2_000];
const deferredMs = 1_000;
/** A record is not multicast twice within this time, or this when a name is defended. */
const againMs = 1_000;
const defendAgainMs = 250;
/** Who has asked with more to come, of what it knows already, is answered after this. */
const moreToComeMs = 450;
/** So many that ask with more to come are waited for at once. */
const mostPending = 32;

interface Pending {
  readonly questions: Question[];
  readonly known: Answer[];
}

export class Responder {
  readonly #options: ResponderOptions;
  #records: Records;
  #socket: LinkSocket | undefined;
  #isProbing = true;
  #former: readonly Said[];
  /** What is under way: probing or announcing. */
  #running = new AbortController();
  readonly #closed = new AbortController();
  readonly #lastSentMs = new Map<string, number>();
  readonly #pending = new Map<string, Pending>();

  constructor(options: ResponderOptions) {
    this.#options = options;
    this.#records = options.records;
    this.#former = options.former;
  }

  get records(): Records {
    return this.#records;
  }

  /** Opens the sockets and begins. Never throws: what fails is told to `onFailed`. */
  async start(): Promise<void> {
    try {
      const socket = await LinkSocket.open(this.#options.link, {
        onPacket: (packet, from) => {
          try {
            this.#receive(packet, from);
          } catch {
            // Anybody may send anything: what cannot be understood is no reason to be silent.
          }
        },
        onError: (error) => this.#fail(error),
      });
      if (this.#closed.signal.aborted) return socket.close();
      this.#socket = socket;
      this.#begin(() => this.#probe(Math.random() * betweenProbesMs));
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Other data under the same names, such as the adopted flag. */
  update(records: Records): void {
    this.#records = records;
    if (!this.#isProbing) this.#begin(() => this.#announce());
  }

  /** Takes everything back, if it was said, and is silent from then on. Never throws. */
  async close({ goodbye }: { readonly goodbye: boolean }): Promise<void> {
    if (this.#closed.signal.aborted) return;
    const wasSaid = !this.#isProbing;
    this.#closed.abort();
    this.#running.abort();
    if (goodbye && wasSaid) {
      const answers = goodbyeOf([...this.#records.shared.slice(0, 1), ...this.#records.unique]);
      await this.#socket?.multicast({ type: "response", answers }).catch(() => undefined);
    }
    this.#socket?.close();
    this.#socket = undefined;
  }

  /** One thing at a time: what was under way ends. */
  #begin(work: () => Promise<void>): void {
    this.#running.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    work().catch((error: unknown) => {
      if (!signal.aborted) this.#fail(error);
    });
  }

  async #probe(delayMs: number): Promise<void> {
    this.#isProbing = true;
    const { signal } = this.#running;
    await sleep(delayMs, undefined, { signal, ref: false });
    for (let i = 0; i < probes; i++) {
      const { names, unique } = this.#records;
      const authorities = unique.map((record) => ({ ...record, flush: false }));
      await this.#socket?.multicast({ type: "query", questions: probeQuestions(names), authorities });
      await sleep(betweenProbesMs, undefined, { signal, ref: false });
    }
    this.#isProbing = false;
    this.#options.onAnnounced();
    await this.#announce();
  }

  async #announce(): Promise<void> {
    const { signal } = this.#running;
    for (const delayMs of announcementsMs) {
      await sleep(delayMs, undefined, { signal, ref: false });
      const { shared, unique } = this.#records;
      const answers = [...shared, ...unique];
      for (const one of answers) this.#lastSentMs.set(keyOf(one), performance.now());
      await this.#socket?.multicast({ type: "response", answers: [...goodbyeOf(this.#former), ...answers] });
    }
    this.#former = [];
  }

  #receive(packet: DecodedPacket, from: Sender): void {
    // Our own, by this link or another one of the same network.
    if (this.#options.own().has(from.address.split("%")[0] ?? "")) return;
    if (packet.type === "response") this.#hear([...(packet.answers ?? []), ...(packet.additionals ?? [])]);
    else if (this.#isProbing) this.#hearProbe(packet);
    else this.#hearQuery(packet, from);
  }

  #hear(answers: readonly Answer[]): void {
    const taken = takenBy(this.#records, answers, this.#options.own());
    if (taken.length === 0) return;
    if (this.#isProbing) {
      this.#running.abort();
      this.#options.onTaken(taken);
    } else this.#begin(() => this.#probe(0));
  }

  #hearProbe({ authorities = [] }: DecodedPacket): void {
    if (losesTo(this.#records, authorities)) this.#begin(() => this.#probe(deferredMs));
  }

  #hearQuery(packet: DecodedPacket, from: Sender): void {
    const { questions = [], answers = [], authorities = [], flag_tc: isMoreToCome, id = 0 } = packet;
    const key = `${from.address} ${from.port}`;
    const pending = this.#pending.get(key);
    if (pending !== undefined) {
      pending.questions.push(...questions);
      pending.known.push(...answers);
      return;
    }
    if (!isMoreToCome) {
      this.#answer({ questions, known: answers }, from, id, authorities.length > 0);
      return;
    }
    if (this.#pending.size >= mostPending) return;
    const gathered = { questions: [...questions], known: [...answers] };
    this.#pending.set(key, gathered);
    this.#later(moreToComeMs, () => {
      this.#pending.delete(key);
      this.#answer(gathered, from, id, false);
    });
  }

  #answer({ questions, known }: Pending, from: Sender, id: number, isProbe: boolean): void {
    const reply = replyTo(this.#records, questions, known);
    if (reply === undefined) return;
    if (from.port !== mdnsPort) {
      // By ordinary DNS, which wants its question and its number back.
      const answers = legacyOf(reply.answers);
      const additionals = legacyOf(reply.additionals);
      this.#send(() =>
        this.#socket?.unicast({ type: "response", id, questions: [...questions], answers, additionals }, from),
      );
      return;
    }
    const { additionals, isShared, isUnicast } = reply;
    if (isUnicast) {
      const answers = [...reply.answers];
      this.#send(() => this.#socket?.unicast({ type: "response", answers, additionals: [...additionals] }, from));
      return;
    }
    // Many may answer a question for the service: not all in the same moment.
    this.#later(isShared ? 20 + Math.random() * 100 : 0, () => {
      const now = performance.now();
      const pauseMs = isProbe ? defendAgainMs : againMs;
      const answers = reply.answers.filter((one) => now - (this.#lastSentMs.get(keyOf(one)) ?? -pauseMs) >= pauseMs);
      if (answers.length === 0) return;
      for (const one of answers) this.#lastSentMs.set(keyOf(one), now);
      this.#send(() => this.#socket?.multicast({ type: "response", answers, additionals: [...additionals] }));
    });
  }

  #later(delayMs: number, work: () => void): void {
    setTimeout(() => {
      if (this.#closed.signal.aborted) return;
      try {
        work();
      } catch (error) {
        this.#fail(error);
      }
    }, delayMs).unref();
  }

  #send(work: () => Promise<void> | undefined): void {
    work()?.catch((error: unknown) => this.#fail(error));
  }

  #fail(error: unknown): void {
    if (this.#closed.signal.aborted) return;
    this.#options.onFailed(error instanceof Error ? error : new Error(String(error)));
  }
}

function keyOf({ type, name, data }: Said): string {
  return `${type} ${name} ${type === "A" || type === "AAAA" || type === "PTR" ? String(data) : ""}`;
}
