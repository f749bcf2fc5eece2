import assert from "node:assert/strict";
import { test } from "node:test";
import { type Answer, decode, encode, type Packet } from "dns-packet";
import { isOfInternet, mdnsPort, readPacket, wantsUnicast } from "./packet.ts";

const question = { type: "PTR", name: "_capsule._tcp.local" } as const;
const address: Answer = { type: "A", name: "nuc-1.local", data: "192.0.2.9", ttl: 120 };

/** A packet whose second word has these bits too. */
function withBits(packet: Packet, bits: number): Buffer {
  const bytes = Buffer.from(encode(packet));
  bytes.writeUInt16BE(bytes.readUInt16BE(2) | bits, 2);
  return bytes;
}

test("a question is read from any port, a response only from that of multicast DNS", () => {
  const asked = encode({ type: "query", questions: [question] });
  const said = encode({ type: "response", answers: [address] });
  for (const port of [mdnsPort, 40_000]) assert.equal(readPacket(asked, port)?.questions?.length, 1);
  assert.equal(readPacket(said, mdnsPort)?.answers?.length, 1);
  assert.equal(readPacket(said, 40_000), undefined);
});

test("other operations than a query, and errors, are not multicast DNS", () => {
  for (const bits of [0x2800, 0x0800, 0x0003, 0x000f]) {
    assert.equal(readPacket(withBits({ type: "query", questions: [question] }, bits), mdnsPort), undefined);
    assert.equal(readPacket(withBits({ type: "response", answers: [address] }, bits), mdnsPort), undefined);
  }
  // All that may be set: more to come, recursion, what DNSSEC has.
  assert.ok(readPacket(withBits({ type: "query", questions: [question] }, 0x0730), mdnsPort));
});

test("what is too large, or no packet, is none", () => {
  const many = Array.from({ length: 400 }, () => address);
  assert.equal(readPacket(encode({ type: "response", answers: many }), mdnsPort), undefined);
  for (const bytes of [Buffer.alloc(0), Buffer.from("x"), Buffer.alloc(40, 0xff)])
    assert.equal(readPacket(bytes, mdnsPort), undefined);
});

test("the class of a question, with and without the wish to be answered alone", () => {
  const asked = (classBits: number) => {
    const bytes = Buffer.from(encode({ type: "query", questions: [question] }));
    bytes.writeUInt16BE(classBits, bytes.length - 2);
    const [one] = decode(bytes).questions ?? [];
    return one === undefined ? [] : [isOfInternet(one), wantsUnicast(one)];
  };
  assert.deepEqual([1, 255, 0x8001, 0x80ff].map(asked), [
    [true, false],
    [true, false],
    [true, true],
    [true, true],
  ]);
  assert.deepEqual([3, 0x8003, 254].map(asked), [
    [false, false],
    [false, false],
    [false, false],
  ]);
});
