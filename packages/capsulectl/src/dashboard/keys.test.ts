import assert from "node:assert/strict";
import { once } from "node:events";
import { emitKeypressEvents, type Key } from "node:readline";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { actionOf } from "./keys.ts";
import { after, aModel } from "./model.test-support.ts";

/** As a terminal sends it. */
async function keyOf(bytes: string): Promise<Key> {
  const input = new PassThrough();
  emitKeypressEvents(input);
  input.write(bytes);
  const [, key] = (await once(input, "keypress")) as [unknown, Key];
  return key;
}

test("what terminals send for a key, and what it does", async () => {
  const table: [string, unknown][] = [
    ["q", "quit"],
    ["\u0003", "quit"],
    ["\u000c", "redraw"],
    ["\t", { kind: "capsule", by: 1 }],
    ["\u001b[Z", { kind: "capsule", by: -1 }],
    ["\u001b[C", { kind: "capsule", by: 1 }],
    ["\u001b[D", { kind: "capsule", by: -1 }],
    ["0", { kind: "all" }],
    ["3", { kind: "choose", index: 2 }],
    ["\u001b[A", { kind: "select", by: -1 }],
    ["\u001bOB", { kind: "select", by: 1 }],
    ["j", { kind: "select", by: 1 }],
    ["\r", { kind: "open" }],
    ["l", { kind: "panel", panel: "logs" }],
    ["e", { kind: "panel", panel: "events" }],
    ["z", { kind: "large" }],
    ["s", { kind: "order" }],
    ["?", { kind: "help" }],
    ["\u001b", { kind: "leave" }],
    ["\u001b[5~", { kind: "scroll", by: 5, rows: 6 }],
    ["\u001b[6~", { kind: "scroll", by: -5, rows: 6 }],
    ["\u001b[H", { kind: "scroll", by: Number.MAX_SAFE_INTEGER, rows: 6 }],
    ["\u001b[F", { kind: "scroll", by: -Number.MAX_SAFE_INTEGER, rows: 6 }],
    ["x", undefined],
    ["\u001b[99;5u", undefined],
    ["\u001b[200~", undefined],
    ["é", undefined],
  ];
  for (const [bytes, expected] of table)
    assert.deepEqual(actionOf(await keyOf(bytes), aModel(), 6), expected, JSON.stringify(bytes));
});

test("in a large panel the arrows move its lines, and in the help any key leads back", async () => {
  const large = after(aModel(), { kind: "large" });
  assert.deepEqual(actionOf(await keyOf("k"), large, 6), { kind: "scroll", by: 1, rows: 6 });
  const help = after(aModel(), { kind: "help" });
  assert.deepEqual(actionOf(await keyOf("x"), help, 6), { kind: "help" });
  assert.equal(actionOf(await keyOf("q"), help, 6), "quit");
});
