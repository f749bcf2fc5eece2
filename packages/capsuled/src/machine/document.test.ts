import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import type { JsonValue } from "@bufbuild/protobuf";
import type { MachineLink } from "@capsule/api";
import { pino } from "pino";
import { CapsuleError, type FieldViolation } from "../errors.ts";
import { Store } from "../store/store.ts";
import { type AppliedMachine, type Clock, MachineDocument, type Reverted } from "./document.ts";
import { aMachine } from "./spec.test-support.ts";

/** Time passes by `pass` only. */
class FakeClock implements Clock {
  #now = new Date("2026-11-28T00:00:00Z").getTime();
  #waits: { at: number; act: () => void }[] = [];

  now(): Date {
    return new Date(this.#now);
  }

  after(ms: number, act: () => void): () => void {
    const wait = { at: this.#now + ms, act };
    this.#waits.push(wait);
    return () => {
      this.#waits = this.#waits.filter((one) => one !== wait);
    };
  }

  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      const [next] = this.#waits.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#waits = this.#waits.filter((one) => one !== next);
      this.#now = next.at;
      next.act();
      // What it began comes to its end: all of it is promises that are settled.
      for (let i = 0; i < 50; i++) await Promise.resolve();
    }
    this.#now = end;
  }
}

/** Links as a variable. */
class FakeLinks {
  links: string[] = [];
  remembered: boolean | undefined;
  runs = 0;
  failure: Error | undefined;
  faults: string[] = [];
  violations: FieldViolation[] = [];

  async converge(links: readonly MachineLink[]): Promise<readonly string[]> {
    this.runs++;
    if (this.failure !== undefined && links.length > 0) throw this.failure;
    this.links = links.map(({ name }) => name);
    return this.faults;
  }

  async refusals(): Promise<FieldViolation[]> {
    return this.violations;
  }

  async remember(hasLinks: boolean): Promise<void> {
    this.remembered = hasLinks;
  }
}

let dir: string;
let store: Store;
let clock: FakeClock;
let links: FakeLinks;
let document: MachineDocument;
let reverted: Reverted[];
let hostnames: string[];
let outside: string;
const log = pino({ level: "silent" });

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-machine-"));
  store = new Store(join(dir, "state.db"));
  clock = new FakeClock();
  links = new FakeLinks();
  reverted = [];
  hostnames = [];
  outside = "";
  document = made();
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true });
});

function made(): MachineDocument {
  return new MachineDocument({
    store,
    facts: () => ({ isNamespace: true, workloadSubnets: [] }),
    links,
    sections: [{ name: "hostname", apply: async ({ hostname }) => void hostnames.push(hostname) }],
    glance: () => outside,
    changed: () => undefined,
    reverted: (one) => reverted.push(one),
    log,
    clock,
  });
}

const one: JsonValue = { links: [{ name: "eth0", addresses: ["192.0.2.1/24"] }] };
const two: JsonValue = { links: [{ name: "eth1", addresses: ["192.0.3.1/24"] }] };

async function apply(fields: JsonValue, options: object = {}): Promise<AppliedMachine> {
  return await document.apply({
    ...{ spec: aMachine(fields), dryRun: false, expectedGeneration: 0, confirmWithinMs: 60_000, ...options },
  });
}

async function keep(fields: JsonValue): Promise<void> {
  await apply(fields);
  await clock.pass(1_000);
  await document.confirm(0);
}

test("without a change of links a document is in force at once, and nothing waits", async () => {
  await document.start();
  const { generation, pending, changes } = await apply({ hostname: "nuc" });
  assert.deepEqual([generation, pending, changes.map(({ path }) => path)], [1, undefined, ["hostname"]]);
  assert.equal(hostnames.at(-1), "nuc");
  assert.equal((await apply({ hostname: "nuc" })).generation, 1, "the same again is no change");
  await apply({});
  assert.equal(hostnames.at(-1), "", "what is not said is at its default");
});

test("a change of links is carried out after the answer, waits, and stays when it is confirmed", async () => {
  await document.start();
  const { pending } = await apply(one);
  assert.deepEqual([links.links, pending?.inForce], [[], false], "the answer goes first");
  await assert.rejects(document.confirm(0), { reason: "NOT_IN_FORCE" });
  await clock.pass(1_000);
  assert.deepEqual([links.links, document.view().pending?.inForce], [["eth0"], true]);
  assert.equal(links.remembered, false, "the next boot does not count on it yet");
  await assert.rejects(document.confirm(7), { reason: "GENERATION_CHANGED" });
  assert.equal(await document.confirm(1), 1);
  assert.equal(links.remembered, true);
  await clock.pass(300_000);
  assert.deepEqual([links.links, document.view().pending, reverted], [["eth0"], undefined, []]);
  await assert.rejects(document.confirm(0), { reason: "NOTHING_PENDING" });
});

test("what nobody confirms is taken back when its time is over, and everything is as before", async () => {
  await document.start();
  await keep(one);
  await apply({ ...(two as object), hostname: "other" }, { confirmWithinMs: 10_000 });
  await clock.pass(9_900);
  assert.deepEqual([links.links, document.spec.hostname], [["eth1"], "other"]);
  await clock.pass(200);
  assert.deepEqual([links.links, document.spec.hostname, hostnames.at(-1)], [["eth0"], "", ""]);
  assert.equal(reverted[0]?.reason, "it was not confirmed within 10 s");
  assert.equal(document.view().reverted?.generation, 2);
  await apply(two);
});

test("links that the kernel refuses are taken back at once", async () => {
  await document.start();
  links.failure = new CapsuleError("precondition", "The kernel refused it");
  await apply(one);
  await clock.pass(1_000);
  assert.deepEqual([links.links, reverted[0]?.reason], [[], "The kernel refused it"]);
});

test("an operator takes it back; the links follow after the answer", async () => {
  await document.start();
  await apply(one);
  await clock.pass(1_000);
  assert.equal(await document.revert(), 1);
  assert.deepEqual(links.links, ["eth0"]);
  await clock.pass(1_000);
  assert.deepEqual([links.links, reverted[0]?.reason], [[], "an operator took it back"]);
  await assert.rejects(document.revert(), { reason: "NOTHING_PENDING" });
});

test("a start takes back what was not confirmed before: after a crash and after a power cut", async () => {
  await document.start();
  await keep(one);
  await apply(two);
  await clock.pass(1_000);
  await document.stop();
  store.close();
  store = new Store(join(dir, "state.db"));
  document = made();
  await document.start();
  assert.deepEqual(links.links, ["eth0"]);
  assert.match(reverted[0]?.reason ?? "", /started again before it was confirmed/);
  assert.equal(store.machine.get().previous, undefined);
});

test("one waits at a time, a generation may be asked for, and a trial changes nothing", async () => {
  await document.start();
  await apply({ hostname: "a" });
  await assert.rejects(apply({ hostname: "b" }, { expectedGeneration: 2 }), {
    kind: "conflict",
    reason: "GENERATION_CHANGED",
  });
  await apply({ hostname: "b" }, { expectedGeneration: 1 });
  assert.deepEqual(
    (await apply(one, { dryRun: true })).changes.map(({ path }) => path),
    ["hostname", "links[0].name", "links[0].addresses[0]"],
  );
  assert.equal(document.spec.hostname, "b");
  await apply(one);
  await assert.rejects(apply({ hostname: "c" }), { reason: "CONFIRMATION_PENDING" });
});

test("what is wrong is refused whole, by rules and by what the capsule can do", async () => {
  await document.start();
  const faulty = { hostname: "B", links: [{ name: "eth0", dhcp: true, gateway: "192.0.2.1" }] };
  const isBoth = (error: CapsuleError): boolean => error.kind === "invalid" && error.violations.length === 2;
  await assert.rejects(apply(faulty), isBoth);
  links.violations = [{ path: "[0].vlan", description: "no" }];
  await assert.rejects(apply(one), (error: CapsuleError) => error.violations[0]?.path === "machine.links[0].vlan");
  assert.equal(store.machine.get().generation, 0);
});

test("links that change by themselves are set right; without links nobody looks", async () => {
  await document.start();
  const { runs } = links;
  outside = "changed";
  await clock.pass(5_000);
  assert.equal(links.runs, runs);
  await keep(one);
  const later = links.runs;
  await clock.pass(5_000);
  assert.equal(links.runs, later, "nothing has changed");
  outside = "again";
  await clock.pass(1_500);
  assert.equal(links.runs, later + 1);
});

test("what is missing is told, and tried again", async () => {
  await document.start();
  links.faults = ["link eth0 is not there"];
  await keep(one);
  assert.deepEqual(document.view().faults, ["link eth0 is not there"]);
  links.faults = [];
  await clock.pass(12_000);
  assert.deepEqual(document.view().faults, []);
});

test("a store that is full does not keep the links from going back", async () => {
  await document.start();
  await keep(one);
  await apply(two, { confirmWithinMs: 10_000 });
  await clock.pass(1_000);
  const revert = store.machine.revert.bind(store.machine);
  store.machine.revert = () => {
    throw new CapsuleError("exhausted", "full");
  };
  await clock.pass(10_000);
  assert.deepEqual([links.links, document.spec.links[0]?.name], [["eth0"], "eth0"]);
  store.machine.revert = revert;
  await clock.pass(2_000);
  assert.deepEqual([store.machine.get().previous, store.machine.get().spec.links[0]?.name], [undefined, "eth0"]);
  assert.equal(reverted.length, 1);
});

test("registries come and go with the document, with their passwords; those of others stay", async () => {
  await document.start();
  const plain = { mirrors: [], username: "", plainHttp: false, caCertificate: "" };
  store.registries.set({ ...plain, host: "by-call.example", password: "kept" });
  store.registries.set({ ...plain, host: "both.example", password: "before" });
  const registry = (host: string, fields: object = {}): JsonValue => ({ host, ...fields }) as JsonValue;
  await keep({
    ...(one as object),
    registries: [registry("both.example", { password: "Sesame-7" }), registry("a.example")],
  });
  assert.equal(store.registries.get("both.example")?.password, "Sesame-7");
  assert.ok(!JSON.stringify(document.view().spec).includes("Sesame-7"), "it is not shown");
  // Without a password it is kept.
  const { changes } = await apply({ ...(one as object), registries: [registry("both.example", { username: "u" })] });
  assert.ok(!JSON.stringify(changes).includes("Sesame-7"));
  assert.deepEqual(
    [store.registries.get("both.example")?.password, store.registries.get("a.example")],
    ["Sesame-7", undefined],
  );
  assert.equal(store.registries.get("by-call.example")?.password, "kept");
  // With links, that are taken back, the registries go back too.
  await apply({
    ...(two as object),
    registries: [registry("both.example", { password: "" }), registry("by-call.example")],
  });
  assert.equal(store.registries.get("both.example")?.password, "");
  await clock.pass(61_000);
  assert.equal(store.registries.get("both.example")?.password, "Sesame-7");
  assert.equal(store.registries.get("by-call.example")?.password, "kept");
});
