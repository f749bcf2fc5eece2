import assert from "node:assert/strict";
import { test } from "node:test";
import { boundsOf, maxNodes } from "./bounds.ts";

const messageOf = (text: string): string | undefined => boundsOf(text, maxNodes).fault?.message;

test("deep nesting is found in every form, without being parsed", () => {
  const indented = Array.from({ length: 100 }, (_, i) => `${" ".repeat(i)}a:`).join("\n");
  for (const text of ["[".repeat(1e6), "{a: ".repeat(1e5), "- ".repeat(1e6), "? ".repeat(1e6), indented])
    assert.match(messageOf(text) ?? "", /deeper/, text.slice(0, 10));
});

test("brackets and indentation inside of texts are no nesting", () => {
  const lines = Array.from({ length: 200 }, (_, i) => `${" ".repeat(i + 1)}[[{`);
  assert.equal(messageOf(`a: |\n${lines.join("\n")}\nb: "${"[".repeat(500)}"\nc: ${"x[".repeat(500)}\n`), undefined);
  assert.equal(messageOf(`# ${"[".repeat(500)}\na: {${"b: [c], ".repeat(500)}}\n`), undefined);
  const steps = Array.from({ length: 300 }, (_, i) => `${" ".repeat((i % 5) * 2)}- a: b`);
  assert.equal(messageOf(steps.join("\n")), undefined);
});

test("the number of values is limited, over all files", () => {
  assert.match(messageOf(`a: [${"b,".repeat(maxNodes)}]`) ?? "", /more than 250000 values/);
  assert.match(messageOf("''\n".repeat(maxNodes + 1)) ?? "", /more than/);
  const { nodes } = boundsOf("a: [b, c]\n", maxNodes);
  assert.ok(nodes >= 4 && nodes < 10, String(nodes));
  assert.equal(boundsOf("a: [b, c]\n", 2).fault?.offset, 3);
});

test("the place of the fault is a place in the text", () => {
  const text = `# x\na: ${"[".repeat(100)}`;
  assert.equal(text[boundsOf(text, maxNodes).fault?.offset ?? -1], "[");
});
