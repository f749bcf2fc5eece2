/**
 * What a capsule says on a link, as DNS records, and how it goes together with what others say there (RFC 6762 and 6763).
 * Pure: sockets and timers are `responder.ts`.
 */

import type { Link } from "@capsule/api/mdns/links.ts";
import { isOfInternet, wantsUnicast } from "@capsule/api/mdns/packet.ts";
import { type Announced, serviceType, textOf } from "@capsule/api/mdns/service.ts";
import { type Answer, encode, type Question } from "dns-packet";

/** Names that must be nobody else's on the link. */
export interface Names {
  /** The service's, before `serviceType`: what people see in a browser of services. */
  readonly instance: string;
  /** The machine's, with ".local". */
  readonly host: string;
}

/** Which of them somebody else has. */
export type Taken = keyof Names;

/** All that is said lives so long in the memory of others: RFC 6762, section 10, for what names a host. In seconds. */
export const ttlS = 120;
/** For one who asked by ordinary DNS and does not hear what changes (section 6.7). In seconds. */
const legacyTtlS = 10;
const listType = "_services._dns-sd._udp.local";
const longestLabel = 63;

/** The nth names to try: the first as they should be, the later ones with a number. */
export function namesOf(hostname: string, shortId: string, nth: { readonly [name in Taken]: number }): Names {
  const label = hostname.replace(/[^A-Za-z0-9-]/g, "-");
  const numbered = (text: string, n: number) => (n === 0 ? text : `${text.slice(0, longestLabel - 4)}-${n + 1}`);
  return {
    instance: numbered(`${label.slice(0, longestLabel - 7)} ${shortId}`, nth.instance),
    host: `${numbered(label.slice(0, longestLabel), nth.host)}.local`,
  };
}

/** A record as it is said here: class and lifetime always the same. */
export type Said = Exclude<Answer, { type: "OPT" }>;

export interface Records {
  readonly names: Names;
  /** The pointers, which others may have too. */
  readonly shared: readonly Said[];
  /** Of names that are this capsule's alone. */
  readonly unique: readonly Said[];
}

export function recordsOf(names: Names, announced: Announced, port: number, link: Link): Records {
  const instance = `${names.instance}.${serviceType}`;
  const common = { class: "IN", ttl: ttlS } as const;
  const unique = { ...common, flush: true } as const;
  // As bytes: dns-packet, when it sends strings, leaves bytes in their place, and the record would look like a new one ever after.
  const text = textOf(announced).map((one) => Buffer.from(one));
  return {
    names,
    shared: [
      { ...common, type: "PTR", name: serviceType, data: instance },
      { ...common, type: "PTR", name: listType, data: serviceType },
    ],
    unique: [
      { ...unique, type: "SRV", name: instance, data: { port, target: names.host, priority: 0, weight: 0 } },
      { ...unique, type: "TXT", name: instance, data: text },
      ...addressRecords(names, link),
    ],
  };
}

/** Of the link alone: what is reached by another one is said there. */
export function addressRecords({ host }: Names, { addresses }: Pick<Link, "addresses">): Said[] {
  return addresses.map(({ family, address }) => ({
    type: family === 4 ? "A" : "AAAA",
    name: host,
    data: address,
    class: "IN",
    ttl: ttlS,
    flush: true,
  }));
}

/** The same records, taken back. */
export function goodbyeOf(records: readonly Said[]): Said[] {
  return records.map((record) => ({ ...record, ttl: 0 }));
}

/** The same records for one who asked by ordinary DNS. */
export function legacyOf(records: readonly Said[]): Said[] {
  return records.map((record) => ({ ...record, ttl: legacyTtlS, flush: false }));
}

export interface Reply {
  readonly answers: readonly Said[];
  readonly additionals: readonly Said[];
  /** Others may answer too: it is sent after a moment, which is another one for each. */
  readonly isShared: boolean;
  /** All questions want it sent to whoever asked, alone. */
  readonly isUnicast: boolean;
}

/** The answer to `questions` of one who knows `known` already; undefined when there is nothing to say. */
export function replyTo(
  { shared, unique }: Records,
  questions: readonly Question[],
  known: readonly Answer[],
): Reply | undefined {
  const ours = [...shared, ...unique];
  const asked = questions.map((question) => ({ question, found: ours.filter((one) => isAsked(one, question)) }));
  const relevant = asked.filter(({ found }) => found.length > 0);
  const answers = ours.filter(
    (one) => relevant.some(({ found }) => found.includes(one)) && !known.some((other) => isKnown(one, other)),
  );
  if (answers.length === 0) return undefined;
  // Who asks for the service will ask for these next.
  const pointsHere = answers.some(({ type, name }) => type === "PTR" && name === serviceType);
  const namesHost = answers.some(({ type }) => type === "SRV");
  const wanted = unique.filter(({ type }) => pointsHere || (namesHost && (type === "A" || type === "AAAA")));
  return {
    answers,
    additionals: wanted.filter((one) => !answers.includes(one)),
    isShared: answers.some((one) => shared.includes(one)),
    isUnicast: relevant.every(({ question }) => wantsUnicast(question)),
  };
}

function isAsked(record: Said, question: Question): boolean {
  const { type, name } = question;
  // ANY is a type of questions only, which the types of dns-packet leave out.
  return isOfInternet(question) && sameName(record.name, name) && ((type as string) === "ANY" || type === record.type);
}

/** One who has it for at least half of its life need not be told (RFC 6762, section 7.1). */
function isKnown(record: Said, other: Answer): boolean {
  return isSame(record, other) && "ttl" in other && (other.ttl ?? 0) >= ttlS / 2;
}

/**
 * Names of ours that an answer of somebody else contradicts. `own` are all addresses of this capsule: what came back from
 * another of its links is no contradiction.
 */
export function takenBy(records: Records, answers: readonly Answer[], own: ReadonlySet<string>): Taken[] {
  const taken = new Set<Taken>();
  for (const answer of answers) {
    if (answer.type === "OPT" || answer.class !== "IN" || answer.ttl === 0) continue;
    const same = records.unique.filter(({ type, name }) => type === answer.type && sameName(name, answer.name));
    if (same.length === 0 && !isOtherAddress(records, answer)) continue;
    const isAddress = answer.type === "A" || answer.type === "AAAA";
    if (isAddress && own.has(String(answer.data))) continue;
    if (!same.some((one) => isSame(one, answer))) taken.add(isAddress ? "host" : "instance");
  }
  return [...taken];
}

/** An address of a family that we have none of is a contradiction too: somebody else has the name. */
function isOtherAddress({ names }: Records, { type, name }: Answer): boolean {
  return (type === "A" || type === "AAAA") && sameName(name, names.host);
}

/** The questions of a probe: for all that these names have. */
export function probeQuestions({ instance, host }: Names): Question[] {
  return [`${instance}.${serviceType}`, host].map((name) => ({ type: "ANY" as Question["type"], name, class: "IN" }));
}

/**
 * Whether another one that probes for the same names at the same time goes first: whoever has what is later in the alphabet
 * (RFC 6762, section 8.2).
 */
export function losesTo({ names, unique }: Records, theirs: readonly Answer[]): boolean {
  return [`${names.instance}.${serviceType}`, names.host].some((name) => {
    const [mine, others] = [unique, theirs].map((records) =>
      records
        .filter((one) => one.type !== "OPT" && sameName(one.name, name))
        .map(wireOf)
        .sort(Buffer.compare),
    );
    if (mine === undefined || others === undefined || others.length === 0) return false;
    for (let i = 0; i < Math.max(mine.length, others.length); i++) {
      const [left, right] = [mine[i], others[i]];
      if (left === undefined || right === undefined) return left === undefined;
      const order = Buffer.compare(left, right);
      if (order !== 0) return order < 0;
    }
    return false;
  });
}

function isSame(a: Answer, b: Answer): boolean {
  return a.type === b.type && sameName(a.name, b.name) && wireOf(a).equals(wireOf(b));
}

/** Of DNS: capitals make no difference. */
function sameName(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}

/** Class, type and data of a record as they are sent, which is the order that the RFC compares in. */
function wireOf(record: Answer): Buffer {
  const { ttl: _, flush: __, ...rest } = record as Said;
  // Header 12 bytes, the root's name 1, type 2, class 2, lifetime 4, length 2.
  const bytes = encode({ type: "response", answers: [{ ...rest, name: "." } as Answer] });
  return Buffer.concat([bytes.subarray(15, 17), bytes.subarray(13, 15), bytes.subarray(23)]);
}
