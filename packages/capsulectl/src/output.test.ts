import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { parse } from "yaml";
import { bytes, note, printJson, printTable, say, sayJson, span } from "./output.ts";

const [out, err] = [process.stdout.write, process.stderr.write];
let written = "";
beforeEach(() => {
  written = "";
  process.stdout.write = process.stderr.write = (text: string | Uint8Array): boolean => {
    written += String(text);
    return true;
  };
});
afterEach(() => {
  process.stdout.write = out;
  process.stderr.write = err;
});

/** Clears the screen by ESC and by the one-byte form; changes the direction of writing. */
const hostile = "a\u001b[2J\u009b2J\u202eb\r\u0007";

test("nothing that a terminal obeys comes out, in any form", async () => {
  say(`${hostile}\n\tsecond line`);
  note(hostile);
  printTable([hostile], [{ title: "X", value: (text) => text }]);
  sayJson({ text: hostile });
  await printJson("json", { text: hostile });
  await printJson("yaml", { text: hostile, [hostile]: [`plain\u009b`] });
  assert.doesNotMatch(written, /(?![\n\t])[\p{Cc}\p{Cf}]/u);
  assert.match(written, /\n\tsecond line\n/);
});

test("JSON and YAML keep every character", async () => {
  await printJson("json", { text: hostile });
  assert.equal(JSON.parse(written).text, hostile);
  written = "";
  await printJson("yaml", { text: hostile, plain: "word\u{e0001}", [hostile]: 1 });
  assert.deepEqual(parse(written), { text: hostile, plain: "word\u{e0001}", [hostile]: 1 });
});

test("tables are as wide as they must be", () => {
  const columns = [
    { title: "NAME", value: (row: [string, number]) => row[0] },
    { title: "N", value: (row: [string, number]) => String(row[1]), right: true },
    { title: "WIDE", value: () => "w", wide: true },
  ];
  printTable(
    [
      ["a", 1],
      ["longer", 100],
    ],
    columns,
  );
  assert.equal(written, "NAME      N\na         1\nlonger  100\n");
});

test("amounts and spans", () => {
  assert.deepEqual([0, 1023, 1024, 1_500_000, 2n ** 40n].map(bytes), [
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.4 MiB",
    "1.0 TiB",
  ]);
  assert.deepEqual([-5, 999, 61_000, 3_700_000, 90_000_000].map(span), ["0s", "0s", "1m1s", "1h1m", "1d1h"]);
});
