import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { BootChoice } from "./boot-choice.ts";
import { faultsOf } from "./health.ts";
import { type BootFacts, findingOf, networkPatienceMs, type TrialFacts, verdictOf } from "./plan.ts";
import { healthy } from "./slot-disk.test-support.ts";
import type { Before, Pending } from "./state.ts";

const before: Before = { hasAddress: true, gateway: "10.0.2.2", running: ["web"] };
const pending: Pending = {
  ...{ version: "2", epoch: 1, slot: "b", from: "a", confirmWithinMs: 900_000, autoConfirmMs: undefined },
  ...{ before, bootId: "first" },
};
const untouched: BootChoice = { confirmed: "a", trying: undefined, tries: 0 };
const staged: BootChoice = { confirmed: "a", trying: "b", tries: 1 };
const taken: BootChoice = { confirmed: "a", trying: "b", tries: 0 };
const boot = (changes: Partial<BootFacts>): string => {
  const facts = { running: "a", isTrial: false, choice: untouched, pending: undefined, failure: "", bootId: "second" };
  const found = findingOf({ ...facts, ...changes } as BootFacts);
  return found.kind === "rolledBack" ? `rolledBack: ${found.reason}` : found.kind;
};

describe("what a boot means: slot, boot loader, record, words of the trial before", () => {
  test("without an update nothing, whatever the boot loader has left", () => {
    assert.equal(boot({}), "nothing");
    assert.equal(boot({ choice: taken }), "nothing");
    assert.equal(boot({ running: "b", choice: { ...untouched, confirmed: "b" } }), "nothing");
    assert.equal(boot({ failure: "of long ago" }), "nothing");
  });
  test("a slot that was started to be tried is on trial, with and without a record", () => {
    assert.equal(boot({ running: "b", isTrial: true, choice: taken, pending }), "trial");
    assert.equal(boot({ running: "b", isTrial: true, choice: taken }), "trial");
    const found = findingOf({
      ...{ running: "b", isTrial: true, choice: taken, failure: "", bootId: "x" },
      pending: { ...pending, slot: "a" },
    });
    assert.deepEqual(found, { kind: "trial", pending: undefined }, "the record of another slot is not its own");
  });
  test("the slot before, after a try: rolled back, with the reason if there is one", () => {
    assert.match(boot({ choice: taken, pending }), /^rolledBack: .*panicked, it hung, or the power was cut/);
    assert.equal(boot({ choice: taken, pending, failure: "capsuled crashed" }), "rolledBack: capsuled crashed");
  });
  test("a boot that did not take the try cannot have tried", () => {
    assert.match(boot({ choice: staged, pending }), /^rolledBack: the boot loader could not write/);
  });
  test("a start of capsuled alone changes nothing of what is staged", () => {
    assert.equal(boot({ choice: staged, pending, bootId: "first" }), "staged");
  });
  test("the power went between record and boot loader: it was not tried", () => {
    assert.equal(boot({ choice: untouched, pending }), "notTried");
  });
  test("the power went between the boot loader and the record of its confirmation: it is confirmed", () => {
    assert.equal(boot({ running: "b", choice: { ...untouched, confirmed: "b" }, pending }), "confirmed");
  });
});

const trial = (changes: Partial<TrialFacts>): ReturnType<typeof verdictOf> => {
  const limits = { confirmWithinMs: 900_000, autoConfirmMs: undefined };
  return verdictOf({ uptimeMs: 60_000, faults: [], healthyMs: 50_000, unreachableMs: 0, ...limits, ...changes });
};
const network = { kind: "network", message: "no link has an address" } as const;
const workload = { kind: "workload", message: "web does not run" } as const;

describe("what is done about a trial", () => {
  test("it waits for its operator, healthy or not", () => {
    assert.deepEqual(trial({}), { kind: "wait" });
    assert.deepEqual(trial({ faults: [workload], healthyMs: 0 }), { kind: "wait" });
  });
  test("it confirms itself only if told, and when it was healthy for long enough", () => {
    assert.deepEqual(trial({ autoConfirmMs: 50_001 }), { kind: "wait" });
    assert.deepEqual(trial({ autoConfirmMs: 50_000 }), { kind: "confirm" });
    assert.deepEqual(trial({ autoConfirmMs: 1, faults: [workload], healthyMs: 0 }), { kind: "wait" });
  });
  test("it is given up when nobody confirmed it in time, and says what was not well", () => {
    assert.deepEqual(trial({ uptimeMs: 899_999 }), { kind: "wait" });
    assert.deepEqual(trial({ uptimeMs: 900_000 }), { kind: "rollBack", reason: "nobody confirmed it within 15 min" });
    const late = trial({ uptimeMs: 900_000, faults: [workload], healthyMs: 0 });
    assert.deepEqual(late, { kind: "rollBack", reason: "it was not healthy (web does not run) within 15 min" });
  });
  test("it is given up when the network stays away, long before that", () => {
    assert.deepEqual(trial({ faults: [network], unreachableMs: networkPatienceMs - 1 }), { kind: "wait" });
    assert.deepEqual(trial({ faults: [network], unreachableMs: networkPatienceMs }), {
      kind: "rollBack",
      reason: "the network was away for 3 min: no link has an address",
    });
  });
});

describe("what is a fault", () => {
  const kinds = (now: Partial<typeof healthy>, was: Partial<Before> = {}): string[] =>
    faultsOf({ ...before, ...was }, { ...healthy, ...now }).map(({ kind }) => kind);
  test("nothing that was not so before", () => {
    assert.deepEqual(kinds({}), []);
    assert.deepEqual(kinds({ gateway: undefined }, { gateway: undefined }), []);
    assert.deepEqual(kinds({ hasAddress: false, gateway: undefined }, { hasAddress: false, gateway: undefined }), []);
    assert.deepEqual(kinds({ gateway: "192.168.1.1" }), [], "another router will do");
  });
  test("an API that does not answer, a disk that is not there, a network that is away", () => {
    assert.deepEqual(kinds({ apiAnswers: false }), ["api"]);
    assert.deepEqual(kinds({ storageIsReady: false }), ["storage"]);
    assert.deepEqual(kinds({ hasAddress: false, gateway: undefined }), ["network"]);
    assert.deepEqual(kinds({ gateway: undefined }), ["network"]);
  });
  test("a workload that ran and does not, unless somebody stopped or deleted it", () => {
    const web = { name: "web", isWanted: true, isRunning: false };
    assert.deepEqual(kinds({ workloads: [web] }), ["workload"]);
    assert.deepEqual(kinds({ workloads: [web] }, { running: [] }), []);
    assert.deepEqual(kinds({ workloads: [{ ...web, isWanted: false }] }), []);
    assert.deepEqual(kinds({ workloads: [] }), []);
  });
});
