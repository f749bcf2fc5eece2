import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceType } from "@capsule/api/mdns/service.ts";
import { type Answer, decode, encode } from "dns-packet";
import { questionPackets } from "./question.ts";

const pointers = (count: number): Answer[] =>
  Array.from({ length: count }, (_, i) => ({ type: "PTR", name: serviceType, data: `x-${i}.${serviceType}`, ttl: 60 }));

test("who knows little asks in one packet, who knows nothing too", () => {
  for (const known of [pointers(0), pointers(5)]) {
    const [packet, ...others] = questionPackets(known).map((one) => decode(encode(one)));
    assert.deepEqual(others, []);
    assert.equal(packet?.questions?.[0]?.name, serviceType);
    assert.equal(packet.answers?.length, known.length);
    assert.equal(packet.flag_tc, false);
  }
});

test("what is known goes into as many packets as it takes: asked once, and all but the last say that more is to come", () => {
  const known = pointers(152);
  const bytes = questionPackets(known).map((one) => encode(one));
  assert.ok(bytes.length > 5 && bytes.every(({ length }) => length <= 1_440));
  const packets = bytes.map((one) => decode(one));
  assert.deepEqual(
    packets.map(({ questions = [] }) => questions.length),
    packets.map((_, i) => (i === 0 ? 1 : 0)),
  );
  assert.deepEqual(
    packets.map(({ flag_tc }) => flag_tc),
    packets.map((_, i) => i < packets.length - 1),
  );
  const said = packets.flatMap(({ answers = [] }) => answers.map((one) => one.type === "PTR" && one.data));
  assert.deepEqual(
    said,
    known.map((one) => one.type === "PTR" && one.data),
  );
});
