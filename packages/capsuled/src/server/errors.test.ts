import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { pino } from "pino";
import { CapsuleError } from "../errors.ts";
import { toConnectError } from "./errors.ts";

const log = pino({ level: "silent" });
const valuesOf = ({ details }: ConnectError): unknown[] =>
  details.map((detail) => ("desc" in detail ? detail.value : undefined));
const converted = (error: unknown): ConnectError => toConnectError(error, "Method", log);

test("an error of any size fits into trailers", () => {
  const huge = "\u{1f600}".repeat(50_000);
  const violations = Array.from({ length: 1_000 }, (_, i) => ({ path: `a[${i}].${huge}`, description: huge }));
  const options = { reason: "X", metadata: { name: huge }, violations };
  for (const error of [new CapsuleError("invalid", huge, options), new ConnectError(huge, Code.InvalidArgument)]) {
    const result = converted(error);
    assert.equal(result.code, Code.InvalidArgument);
    // Percent-encoded, a character is up to 12 bytes.
    assert.ok(encodeURIComponent(result.rawMessage.replace(/[\ud800-\udfff]/g, "x")).length < 32_000);
    assert.ok(JSON.stringify(valuesOf(result)).length < 16_000);
  }
});

test("an error of usual size keeps all it says", () => {
  const violations = [{ path: "name", description: "is missing" }];
  const result = converted(new CapsuleError("invalid", "no", { reason: "X", metadata: { a: "b" }, violations }));
  assert.equal(result.rawMessage, "no");
  assert.deepEqual(valuesOf(result), [
    { reason: "X", domain: "capsule", metadata: { a: "b" } },
    { fieldViolations: [{ field: "name", description: "is missing" }] },
  ]);
});

test("what is unknown is told without its words", () => {
  const result = converted(new Error("secret"));
  assert.equal(result.code, Code.Internal);
  assert.doesNotMatch(result.rawMessage, /secret/);
});
