import assert from "node:assert/strict";
import { test } from "node:test";
import { CliError, exitCode } from "./errors.ts";
import { formatPublicKey, parsePublicKey } from "./public-key.ts";

test("a key is one word that is no option, whatever its bytes", () => {
  for (const first of [0, 0xfb, 0xff]) {
    const raw = new Uint8Array(32).fill(first);
    const text = formatPublicKey(raw);
    assert.match(text, /^[a-z]\S+$/);
    assert.deepEqual(parsePublicKey(text), raw);
  }
});

test("anything else is a usage error", () => {
  for (const text of ["", "ed25519:", "ed25519:AAAA", "A".repeat(43), `ed25519:${"A".repeat(44)}`])
    assert.throws(
      () => parsePublicKey(text),
      (error) => error instanceof CliError && error.exitCode === exitCode.usage,
    );
});
