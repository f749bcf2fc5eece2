import assert from "node:assert/strict";
import { test } from "node:test";
import { Phase } from "@capsule/api";
import { after, aModel, event, feed, info, now, sample, two, usage, workload } from "./model.test-support.ts";
import { inOrder, type Model, newModel, shownCapsule } from "./model.ts";
import { type LogMessage, type Message, wantedLog } from "./update.ts";

const names = (model: Model): string[] => shownCapsule(model).workloads.map(({ name }) => name);

function log(of: LogMessage, name = "db"): Message {
  return { kind: "logs", capsule: 0, workload: name, of };
}

test("the first sample after a connection is no base for rates, and makes no column", () => {
  let model = after(newModel(two), feed({ kind: "up" }), sample(0, 90, 1_000_000));
  assert.deepEqual(shownCapsule(model).graphs.cpu, []);
  model = after(model, sample(1, 50, 1_003_000), sample(3, 60, 1_007_000));
  assert.deepEqual(shownCapsule(model).graphs.cpu, [50, 60]);
  assert.deepEqual(shownCapsule(model).graphs.network, [3_000, 2_000]);
  // The capsule was restarted, and counts from 0 again.
  model = after(
    model,
    feed({ kind: "down", reason: "x", retryAt: now }),
    feed({ kind: "up" }),
    sample(9, 90, 500),
    sample(10, 10, 700),
  );
  assert.deepEqual(shownCapsule(model).graphs.network, [3_000, 2_000, 200]);
  model = after(model, sample(11, 10, 100));
  assert.equal(shownCapsule(model).graphs.network.at(-1), 0);
});

test("seconds without a connection are gaps, but there are none before the first column", () => {
  const down = feed({ kind: "down", reason: "x", retryAt: now });
  assert.deepEqual(shownCapsule(after(newModel(two), down, { kind: "second" })).graphs.cpu, []);
  const model = after(aModel(), { kind: "second" }, down, { kind: "second" }, { kind: "second" });
  assert.deepEqual(shownCapsule(model).graphs.cpu.slice(-3), [30, undefined, undefined]);
});

test("the pool's column is that of the fullest", () => {
  assert.equal(shownCapsule(aModel()).graphs.pool.at(-1), 40);
});

test("what is gone while nobody listened is gone when all has been told again", () => {
  const again = after(aModel(), feed({ kind: "down", reason: "x", retryAt: now }), feed({ kind: "up" }));
  assert.deepEqual(names(again), ["db", "web"]);
  assert.deepEqual(names(after(again, workload("web", Phase.RUNNING), feed({ kind: "synced" }))), ["web"]);
});

test("events are told again after each connection, and only the newest are kept", () => {
  const again = after(aModel(), feed({ kind: "up" }), event(9, "web", "again"));
  assert.deepEqual(
    shownCapsule(again).events.map(({ text }) => text),
    ["Started: again"],
  );
  let model = aModel();
  for (let i = 0; i < 1_000; i++) model = after(model, event(i, "web", `${i}`));
  assert.equal(shownCapsule(model).events.length, 200);
  assert.equal(shownCapsule(model).events.at(-1)?.text, "Started: 999");
});

test("the reason of a lost connection stays in sight until there is another", () => {
  const down = feed({ kind: "down", reason: "refused\nDo this.", retryAt: now + 1 });
  const model = after(aModel(), down, feed({ kind: "connecting" }));
  assert.deepEqual(shownCapsule(model).link, {
    state: "down",
    reason: "refused Do this.",
    since: now,
    retryAt: now + 1,
  });
  const later = after(model, feed({ kind: "down", reason: "other", retryAt: now + 9 }, 0, now + 5_000));
  assert.deepEqual(shownCapsule(later).link, { state: "down", reason: "other", since: now, retryAt: now + 9 });
  assert.deepEqual(shownCapsule(after(later, feed({ kind: "up" }))).link, { state: "up" });
});

test("a workload that is deleted passes the selection on to the one in its place", () => {
  let model = after(aModel(), workload("a", Phase.RUNNING), workload("z", Phase.RUNNING));
  model = after(model, { kind: "select", by: 1 });
  assert.equal(shownCapsule(model).selected, "web");
  model = after(model, feed({ kind: "gone", name: "web" }));
  assert.equal(shownCapsule(model).selected, "z");
  model = after(model, feed({ kind: "gone", name: "z" }));
  assert.equal(shownCapsule(model).selected, "db");
  model = after(model, feed({ kind: "gone", name: "db" }), feed({ kind: "gone", name: "a" }));
  assert.equal(shownCapsule(model).selected, undefined);
  assert.equal(wantedLog(after(model, { kind: "open" })), undefined);
});

test("use belongs to who runs", () => {
  const model = aModel();
  assert.equal(shownCapsule(model).workloads[1]?.usage?.cpuMillis, 125);
  assert.equal(shownCapsule(after(model, workload("web", Phase.STOPPED))).workloads[1]?.usage, undefined);
  assert.equal(shownCapsule(after(model, usage("db", 1, 1))).workloads[1]?.usage, undefined);
});

test("sorted by use, the greediest first and who does not run last", () => {
  const model = after(aModel(), { kind: "order" });
  assert.deepEqual(
    inOrder(shownCapsule(model), model.order).map(({ name }) => name),
    ["web", "db"],
  );
  assert.equal(after(model, { kind: "order" }, { kind: "order" }).order, "name");
});

test("the log that is wanted is that of the selected workload, while it is in sight", () => {
  const model = aModel();
  assert.equal(wantedLog(model), undefined);
  const open = after(model, { kind: "open" });
  assert.deepEqual(wantedLog(open), { capsule: 0, workload: "db" });
  assert.deepEqual(wantedLog(after(open, { kind: "select", by: 1 })), { capsule: 0, workload: "web" });
  assert.equal(wantedLog(after(open, { kind: "help" })), undefined);
  assert.equal(wantedLog(after(open, { kind: "leave" })), undefined);
});

test("a log begins anew when it is read anew, is bounded, and forgets that of another", () => {
  let model = after(aModel(), { kind: "open" }, log({ kind: "lines", lines: ["old"] }), log({ kind: "start" }));
  for (let i = 0; i < 500; i++) model = after(model, log({ kind: "lines", lines: Array(10).fill(`line ${i}`) }));
  assert.equal(model.logs?.lines.length, 1_000);
  assert.equal(model.logs?.lines.at(-1), "line 499");
  model = after(model, log({ kind: "note", note: "it is gone" }));
  assert.equal(model.logs?.note, "it is gone");
  assert.deepEqual(after(model, log({ kind: "lines", lines: ["other"] }, "web")).logs?.lines, ["other"]);
});

test("whoever has moved back goes on reading the same lines, and cannot move beyond the ends", () => {
  const lines = Array.from({ length: 100 }, (_, i) => `${i}`);
  let model = after(aModel(), { kind: "open" }, log({ kind: "start" }), log({ kind: "lines", lines }));
  model = after(model, { kind: "scroll", by: 10, rows: 8 }, log({ kind: "lines", lines: ["a", "b", "c"] }));
  assert.equal(model.back, 13);
  assert.equal(after(model, { kind: "scroll", by: Number.MAX_SAFE_INTEGER, rows: 8 }).back, 95);
  assert.equal(after(model, { kind: "scroll", by: -Number.MAX_SAFE_INTEGER, rows: 8 }).back, 0);
  assert.equal(after(model, { kind: "select", by: 1 }).back, 0);
});

test("capsules are passed through in a circle, chosen by number, and kept apart", () => {
  assert.equal(after(aModel(), { kind: "capsule", by: -1 }).shown, 1);
  assert.equal(after(aModel(), { kind: "capsule", by: 1 }, { kind: "capsule", by: 1 }).shown, 0);
  assert.equal(after(aModel(), { kind: "choose", index: 8 }).shown, 0);
  const opened = after(aModel(), { kind: "all" }, { kind: "select", by: 5 }, { kind: "open" });
  assert.deepEqual([opened.view, opened.shown], ["capsule", 1]);
  assert.deepEqual(names(opened), []);
});

test("a step back leads from the help, the large panel and the log to where one came from", () => {
  let model = after(aModel(), { kind: "open" }, { kind: "large" }, { kind: "help" });
  const seen = [0, 1, 2].map(() => {
    model = after(model, { kind: "leave" });
    return [model.view, model.isLarge, model.panel];
  });
  assert.deepEqual(seen, [
    ["capsule", true, "logs"],
    ["capsule", false, "logs"],
    ["capsule", false, "events"],
  ]);
});

test("warnings come and go", () => {
  const model = after(aModel(), info("full"));
  assert.deepEqual(shownCapsule(model).info?.warnings, ["full"]);
  assert.deepEqual(shownCapsule(after(model, info())).info?.warnings, []);
});
