import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Link } from "@capsule/api/mdns/links.ts";
import { announcedOf, serviceType } from "@capsule/api/mdns/service.ts";
import { type Answer, decode, encode, type Question } from "dns-packet";
import { goodbyeOf, legacyOf, losesTo, namesOf, probeQuestions, recordsOf, replyTo, takenBy, ttlS } from "./records.ts";

const link: Link = {
  name: "eth0",
  addresses: [
    { family: 4, address: "192.0.2.1", prefix: 24 },
    { family: 6, address: "fe80::1", prefix: 64 },
  ],
};
const announced = {
  capsuleId: "abcdefghijklmnopqrstuvwxyz",
  shortId: "abcdef",
  adopted: false,
  version: "1.2.3",
  mode: "machine",
};
const first = { instance: 0, host: 0 };
const names = namesOf("nuc-1", "abcdef", first);
const records = recordsOf(names, announced, 50_000, link);
const instance = `nuc-1 abcdef.${serviceType}`;
const own = new Set(["192.0.2.1", "fe80::1", "198.51.100.1"]);

/** As it comes from the network. */
function received(answers: readonly Answer[]): Answer[] {
  return decode(encode({ type: "response", answers: [...answers] })).answers ?? [];
}
const ask = (type: string, name: string): Question => ({ type: type as Question["type"], name, class: "IN" });
const types = (answers: readonly Answer[] | undefined): string => (answers ?? []).map(({ type }) => type).join(" ");
const host = (data: string): Answer => ({ type: "A", name: "nuc-1.local", data, ttl: 120 });

describe("what is said", () => {
  it("is what a browser of services needs, and the text can be read back", () => {
    assert.equal(types(received(records.shared)), "PTR PTR");
    assert.equal(types(received(records.unique)), "SRV TXT A AAAA");
    const text = received(records.unique).find((one) => one.type === "TXT");
    assert.deepEqual(text?.type === "TXT" && announcedOf(text.data), announced);
  });

  it("stays what it was when it is sent and compared: what has not changed is not announced again", () => {
    const before = JSON.stringify(records);
    received([...records.shared, ...records.unique]);
    takenBy(records, received(records.unique), own);
    assert.equal(JSON.stringify(records), before);
    assert.equal(JSON.stringify(recordsOf(names, announced, 50_000, link)), before);
  });

  it("fits into a label whatever the host is called, also with a number", () => {
    const long = namesOf("x".repeat(63), "abcdef", { instance: 12, host: 12 });
    for (const label of [long.instance, long.host.replace(".local", "")]) assert.ok(label.length <= 63, label);
    assert.match(long.host, /^x+-13\.local$/);
    assert.equal(namesOf("a.b", "abcdef", first).host, "a-b.local");
  });

  it("is taken back with a lifetime of nothing, and told to ordinary DNS for a moment", () => {
    assert.ok(goodbyeOf(records.unique).every(({ ttl }) => ttl === 0));
    assert.ok(legacyOf(records.unique).every(({ ttl, flush }) => (ttl ?? 99) <= 10 && flush === false));
  });
});

describe("an answer", () => {
  it("to a question for the service has all that is asked next", () => {
    const reply = replyTo(records, [ask("PTR", "_CAPSULE._tcp.local")], []);
    assert.equal(types(reply?.answers), "PTR");
    assert.equal(types(reply?.additionals), "SRV TXT A AAAA");
    assert.equal(reply?.isShared, true);
    assert.equal(reply?.isUnicast, false);
  });

  it("to a question for a name has what the name has", () => {
    assert.equal(types(replyTo(records, [ask("A", "NUC-1.local")], [])?.answers), "A");
    assert.equal(types(replyTo(records, [ask("ANY", instance)], [])?.answers), "SRV TXT");
    assert.equal(types(replyTo(records, probeQuestions(names), [])?.answers), "SRV TXT A AAAA");
    assert.equal(types(replyTo(records, [ask("PTR", "_services._dns-sd._udp.local")], [])?.answers), "PTR");
    assert.equal(replyTo(records, [ask("A", "nuc-2.local"), ask("MX", "nuc-1.local")], []), undefined);
  });

  it("is given to questions for the Internet's records only", () => {
    const chaos: Question = { ...ask("A", "nuc-1.local"), class: "CH" };
    assert.equal(replyTo(records, [chaos], []), undefined);
    assert.equal(types(replyTo(records, [{ ...chaos, class: "ANY" }], [])?.answers), "A");
  });

  it("is not given to one who knows it, as long as that holds", () => {
    const known = (ttl: number) => received(records.shared.slice(0, 1).map((one) => ({ ...one, ttl })));
    const question = [ask("PTR", serviceType)];
    assert.equal(replyTo(records, question, known(ttlS / 2)), undefined);
    assert.equal(types(replyTo(records, question, known(ttlS / 2 - 1))?.answers), "PTR");
  });

  it("is for the one alone who wants it so", () => {
    const bytes = encode({ type: "query", questions: [ask("PTR", serviceType)] });
    bytes.writeUInt16BE(0x8001, bytes.length - 2);
    assert.equal(replyTo(records, decode(bytes).questions ?? [], [])?.isUnicast, true);
  });
});

describe("somebody else on the network", () => {
  it("takes no name by saying the same, by what is ours on another link, or by taking it back", () => {
    assert.deepEqual(takenBy(records, received([...records.shared, ...records.unique]), own), []);
    assert.deepEqual(takenBy(records, received([host("198.51.100.1")]), own), []);
    assert.deepEqual(takenBy(records, received([{ ...host("192.0.2.9"), ttl: 0 } as Answer]), own), []);
    assert.deepEqual(takenBy(records, received([{ ...host("192.0.2.9"), name: "nuc-2.local" } as Answer]), own), []);
    assert.deepEqual(takenBy(records, received([{ ...host("192.0.2.9"), class: "CH" } as Answer]), own), []);
  });

  it("takes the host's name with another address, the instance's with another service", () => {
    assert.deepEqual(takenBy(records, received([host("192.0.2.9")]), own), ["host"]);
    const only4 = recordsOf(names, announced, 50_000, { ...link, addresses: link.addresses.slice(0, 1) });
    const other6: Answer = { type: "AAAA", name: "nuc-1.local", data: "fe80::9", ttl: 120 };
    assert.deepEqual(takenBy(only4, received([other6]), own), ["host"]);
    const service: Answer = { type: "SRV", name: instance, data: { port: 1, target: "other.local" }, ttl: 120 };
    assert.deepEqual(takenBy(records, received([service]), own), ["instance"]);
  });

  it("that asks for the same names at the same time: exactly one of the two gives way", () => {
    const theirs = recordsOf(names, announced, 50_000, {
      name: "eth0",
      addresses: [{ family: 4, address: "192.0.2.9", prefix: 24 }],
    });
    const [mine, other] = [losesTo(records, received(theirs.unique)), losesTo(theirs, received(records.unique))];
    assert.notEqual(mine, other);
    assert.equal(losesTo(records, received(records.unique)), false);
    assert.equal(losesTo(records, []), false);
  });
});
