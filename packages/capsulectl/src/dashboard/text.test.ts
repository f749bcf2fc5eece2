import assert from "node:assert/strict";
import { test } from "node:test";
import { ascii, fit, plain, widthOf } from "./text.ts";

const hostile = [
  "\u001b[2J\u001b[H",
  "\u001b]0;title\u0007",
  "\u001b]52;c;ZXZpbA==\u001b\\",
  "\u009b31m",
  "\u009d0;x\u009c",
  "\u001bP1$r\u001b\\",
  "\u001b",
  "\r\n\b\u007f\u0000",
  "\u202e\u2066\u200b\u200d\ufeff",
  "\u2028\u2029",
  "\ud800",
];

test("nothing that a terminal obeys is left of a hostile text", () => {
  for (const text of hostile) {
    const out = plain(`a${text}b`);
    assert.doesNotMatch(out, /[\p{C}\p{Zl}\p{Zp}]/u, JSON.stringify(text));
    assert.match(out, /^a.*b$/, JSON.stringify(text));
  }
  // Every code point below U+3000, alone and behind an escape.
  for (let code = 0; code < 0x3000; code++) {
    for (const text of [String.fromCodePoint(code), `\u001b${String.fromCodePoint(code)}[`])
      assert.doesNotMatch(plain(`${text}x`), /[\p{Cc}\p{Cf}]/u, code.toString(16));
  }
});

test("colours of a log are taken out whole, and the rest stays", () => {
  assert.equal(plain("\u001b[1;31mERROR\u001b[0m: \tno"), "ERROR:  no");
  assert.equal(plain("日本語 ünï"), "日本語 ünï");
});

test("a huge text is not looked through, and marks do not climb", () => {
  assert.equal(plain("x".repeat(1_000_000)).length, 1_000);
  assert.equal(plain(`z${"\u0335".repeat(50)}!`), "z\u0335\u0335!");
});

test("widths are those of cells", () => {
  assert.equal(widthOf("web"), 3);
  assert.equal(widthOf("日本"), 4);
  assert.equal(widthOf("🚀"), 2);
  assert.equal(widthOf("z\u0335"), 1);
});

test("a text is made to fit exactly", () => {
  assert.equal(fit("web", 5), "web  ");
  assert.equal(fit("web", 5, "right"), "  web");
  assert.equal(fit("website", 5), "webs…");
  assert.equal(fit("日本語", 4), "日… ");
  assert.equal(fit("日本語", 5), "日本…");
  assert.equal(fit("x", 0), "");
  for (const width of [1, 2, 3, 7, 8, 9]) assert.equal(widthOf(fit("a日b本🚀語", width)), width);
});

test("in ASCII every cell is one character", () => {
  assert.equal(ascii("日本…█ü"), "????~#?");
});
