import assert from "node:assert/strict";
import { test } from "node:test";
import { append, graph, type Series, topOf } from "./series.ts";

test("a series is bounded and keeps the newest", () => {
  let series: Series = [];
  for (let i = 0; i < 10_000; i++) series = append(series, i);
  assert.equal(series.length, 240);
  assert.equal(series.at(-1), 9_999);
});

test("a graph of one row", () => {
  assert.deepEqual(graph([0, 1, 2, 3, 4, 5, 6, 7, 8], 9, 1, 8), [" ▁▂▃▄▅▆▇█"]);
});

test("a graph of several rows stands on its ground, with the newest at the right", () => {
  assert.deepEqual(graph([100, 50, 25], 5, 2, 100), ["  █  ", "  ██▄"]);
  assert.deepEqual(graph([9, 100, 50], 2, 2, 100), ["█ ", "██"]);
});

test("little is more than nothing, too much is full, a gap is a gap", () => {
  assert.deepEqual(graph([0.001, 0, 1_000, undefined], 4, 2, 100), ["  █ ", "▁ █·"]);
  assert.deepEqual(graph([Number.NaN, -1, 5], 3, 1, 0), ["   "]);
  assert.deepEqual(graph([], 3, 2, 1), ["   ", "   "]);
});

test("the top of a graph without a limit is a power of two", () => {
  assert.equal(topOf([1, 5, undefined], 3, 1), 8);
  assert.equal(topOf([1_000, 2], 1, 1), 2);
  assert.equal(topOf([], 10, 1024), 1024);
});
