import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { KnownValues } from "./known-values.ts";
import { mark } from "./patterns.ts";

describe("KnownValues", () => {
  it("takes a value wherever it stands, and in every form", () => {
    const value = 'p"ss wörd/1';
    const known = new KnownValues([value]);
    for (const form of [
      value,
      JSON.stringify(value).slice(1, -1),
      encodeURIComponent(value),
      Buffer.from(value).toString("base64").replace(/=+$/, ""),
    ])
      assert.equal(known.scrub(`a${form}b${form}`), `a${mark}b${mark}`, form);
  });

  it("takes the lines of a value that has several", () => {
    const known = new KnownValues(["-----BEGIN\nMIIabcdef\nshort\n"]);
    assert.equal(known.scrub("log: MIIabcdef, short"), `log: ${mark}, short`);
  });

  it("takes the longer one of two that begin alike", () => {
    assert.equal(
      new KnownValues(["secret", "secret-of-anna"]).scrub("secret-of-anna secret-of-b"),
      `${mark} ${mark}-of-b`,
    );
  });

  it("looks for nothing that is short, and takes nothing else", () => {
    const known = new KnownValues(["", "1", "short", "abcdef"]);
    const text = "1 short abcde abcdeg bcdef ";
    assert.equal(known.scrub(text), text);
    assert.equal(new KnownValues([]).scrub(text), text);
  });

  it("agrees with a search for each value one by one", () => {
    const letters = "ab";
    let seed = 7;
    const next = (): string => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return letters[(seed >> 16) % 2] ?? "";
    };
    const values = Array.from({ length: 20 }, () => Array.from({ length: 9 }, next).join(""));
    const text = Array.from({ length: 20_000 }, next).join("");
    const clean = new KnownValues(values).scrub(text);
    assert.ok(clean.includes(mark));
    for (const rest of clean.split(mark)) for (const value of values) assert.ok(!rest.includes(value), value);
  });

  it("works on thousands of values at once", () => {
    const values = Array.from({ length: 5_000 }, (_, i) => `secret-number-${i}-${(i * 7_919) % 10_007}`);
    const text = `${"level=info msg=nothing ".repeat(100_000)}${values[4_321]}`;
    const began = performance.now();
    assert.ok(new KnownValues(values).scrub(text).endsWith(mark));
    assert.ok(performance.now() - began < 5_000, `${performance.now() - began} ms`);
  });
});
