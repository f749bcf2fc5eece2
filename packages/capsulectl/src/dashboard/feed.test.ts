import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { CliError } from "../errors.ts";
import { reasonOf } from "./feed.ts";

test("why there is no connection, in few words", () => {
  const host = "192.0.2.1:50000";
  const refused = new Error(`connect ECONNREFUSED ${host}`);
  const table: [unknown, string][] = [
    [
      new CliError(`${host} cannot be reached: ${refused.message}. Does it run?`, 1, { cause: refused }),
      "connect ECONNREFUSED",
    ],
    [new CliError("x", 1, { cause: new Error("no answer within 10 s") }), "no answer within 10 s"],
    [new CliError("it is not the capsule that you adopted"), "it is not the capsule that you adopted"],
    [new ConnectError("reset", Code.Unavailable), "the connection was lost"],
    [new ConnectError("the key is not known here", Code.Unauthenticated), "the key is not known here"],
    [new Error("odd"), "odd"],
  ];
  for (const [error, expected] of table) assert.equal(reasonOf(error, host), expected);
});
