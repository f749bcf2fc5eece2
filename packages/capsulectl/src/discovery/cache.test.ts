import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceType, textOf } from "@capsule/api/mdns/service.ts";
import type { Answer } from "dns-packet";
import { Cache } from "./cache.ts";
import { foundOf } from "./found.ts";
import type { Identified } from "./identify.ts";

const announced = { capsuleId: "a".repeat(26), shortId: "aaaaaa", adopted: true, version: "1", mode: "qemu" };
const instance = `nuc-1 aaaaaa.${serviceType}`;

function said(ttl: number, ...addresses: string[]): Answer[] {
  const unique = { ttl, flush: true } as const;
  return [
    { type: "PTR", name: serviceType, data: instance, ttl },
    { type: "SRV", name: instance, data: { port: 7, target: "nuc-1.local" }, ...unique },
    { type: "TXT", name: instance, data: textOf(announced), ...unique },
    ...addresses.map(
      (data): Answer => ({ type: data.includes(":") ? "AAAA" : "A", name: "nuc-1.local", data, ...unique }),
    ),
  ];
}
const endpoints = (cache: Cache): string[] => cache.sightings().flatMap((one) => one.endpoints);

test("what was said holds for its time, and is asked for again before", () => {
  const cache = new Cache();
  cache.hear("eth0", said(120, "fe80::1", "192.0.2.1"), 0);
  assert.deepEqual(endpoints(cache), ["192.0.2.1:7", "[fe80::1%eth0]:7"]);
  assert.equal(cache.nextDueMs(0), 96_000);
  assert.equal(cache.known("eth0", 60_000).length, 1);
  assert.equal(cache.known("eth0", 60_001).length, 0);
  cache.expire(119_999);
  assert.equal(endpoints(cache).length, 2);
  cache.expire(120_000);
  assert.deepEqual(endpoints(cache), []);
});

test("what is known is said to who answers only with all that belongs to it, and never as the one truth", () => {
  const cache = new Cache();
  const [pointer, ...others] = said(120, "192.0.2.1");
  const long: Answer = { type: "PTR", name: serviceType, data: instance, ttl: 4_500, flush: true };
  assert.equal(pointer?.type, "PTR");
  // As avahi announces: pointers for 75 minutes, addresses for two.
  cache.hear("eth0", [long], 0);
  assert.deepEqual(cache.known("eth0", 0), []);
  cache.hear("eth0", others, 0);
  assert.deepEqual(cache.known("eth0", 10_000), [{ ...long, ttl: 4_490, flush: false }]);
  assert.deepEqual(cache.known("eth1", 10_000), []);
  assert.deepEqual(cache.known("eth0", 96_000), []);
});

test("a goodbye ends it after a second, which another word takes back", () => {
  const cache = new Cache();
  cache.hear("eth0", said(120, "192.0.2.1"), 0);
  cache.hear("eth0", said(0, "192.0.2.1"), 5_000);
  cache.expire(5_999);
  assert.equal(endpoints(cache).length, 1);
  cache.hear("eth0", said(120, "192.0.2.1"), 5_999);
  cache.expire(6_000);
  assert.equal(endpoints(cache).length, 1);
  cache.hear("eth0", said(0, "192.0.2.1"), 7_000);
  cache.expire(8_000);
  assert.deepEqual(cache.sightings(), []);
});

test("a new address replaces the old one; those of one moment stand together, those of other links too", () => {
  const cache = new Cache();
  cache.hear("eth0", said(120, "192.0.2.1"), 0);
  cache.hear("eth1", said(120, "198.51.100.1"), 0);
  cache.hear("eth0", said(120, "192.0.2.2"), 10_000);
  cache.hear("eth0", said(120, "192.0.2.3"), 10_001);
  cache.expire(11_001);
  assert.deepEqual(endpoints(cache).sort(), ["192.0.2.2:7", "192.0.2.3:7", "198.51.100.1:7"]);
  cache.forget("eth0");
  assert.deepEqual(endpoints(cache), ["198.51.100.1:7"]);
});

test("others' services, half a capsule and floods leave no trace", () => {
  const cache = new Cache();
  cache.hear("eth0", [{ type: "A", name: "printer.local", data: "192.0.2.5", ttl: 120 }], 0);
  cache.hear("eth0", [{ type: "PTR", name: "_ipp._tcp.local", data: "x._ipp._tcp.local", ttl: 120 }], 0);
  assert.equal(cache.nextDueMs(0), Number.POSITIVE_INFINITY);
  cache.hear("eth0", said(120).slice(0, 2), 0);
  assert.deepEqual(cache.sightings(), []);
  const many = Array.from(
    { length: 5_000 },
    (_, i): Answer => ({ type: "PTR", name: serviceType, data: `${i}`, ttl: 9 }),
  );
  cache.hear("eth0", many, 0);
  assert.ok(cache.known("eth0", 0).length <= 2_000);
});

const identified = (endpoint: string, fingerprint: string): Identified => ({
  ...announced,
  endpoint,
  fingerprint,
  hostname: "nuc-1",
});
const sighting = (link: string, ...all: string[]) => ({ instance, link, announced, endpoints: all });

test("a capsule of several addresses is one; one that says it is another's has its own line", () => {
  const sightings = [sighting("eth0", "192.0.2.1:7", "[fe80::1%eth0]:7"), sighting("eth1", "198.51.100.1:7")];
  const answers = new Map<string, Identified | undefined>([
    ["192.0.2.1:7", identified("192.0.2.1:7", "f1")],
    ["[fe80::1%eth0]:7", identified("[fe80::1%eth0]:7", "f1")],
    ["198.51.100.1:7", identified("198.51.100.1:7", "f2")],
  ]);
  const contexts = { home: { host: "192.0.2.9:7", capsuleId: announced.capsuleId, fingerprint: "f1" } };
  const found = foundOf(sightings, answers, contexts);
  assert.deepEqual(
    found.map(({ addresses, fingerprint, context, impersonates }) => [
      addresses.length,
      fingerprint,
      context,
      impersonates,
    ]),
    [
      [2, "f1", "home", ""],
      [1, "f2", "", "home"],
    ],
  );
});

test("one that does not answer is shown as it was announced, without a fingerprint and as nobody's context", () => {
  const contexts = { home: { host: "192.0.2.1:7", capsuleId: announced.capsuleId, fingerprint: "f1" } };
  const [found] = foundOf([sighting("eth0", "192.0.2.1:7")], new Map(), contexts);
  assert.partialDeepStrictEqual(found, {
    name: "nuc-1",
    fingerprint: "",
    context: "",
    impersonates: "",
    adopted: true,
  });
});
