import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect as connectHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { createServer, type Server } from "node:tls";
import { IdentityService } from "@capsule/api";
import { makeClientCertificate } from "./certificate.ts";
import { connect } from "./connection.ts";
import { CliError, exitCode } from "./errors.ts";
import { toCliError } from "./rpc-errors.ts";

let silent: Server;
let host: string;
before(async () => {
  const { keyPem, certificatePem } = await makeClientCertificate();
  silent = createServer(
    { key: keyPem, cert: certificatePem, minVersion: "TLSv1.3", ALPNProtocols: ["h2"] },
    (socket) => {
      socket.on("error", () => undefined);
      socket.resume();
    },
  );
  await new Promise<void>((done) => silent.listen(0, "127.0.0.1", done));
  host = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
});
after(() => {
  silent.close();
});

test("a capsule that says nothing is given up", async () => {
  const connection = await connect({ host, key: undefined, fingerprint: undefined, callTimeoutMs: 200 });
  const error = await connection
    .client(IdentityService)
    .getIdentity({})
    .then(
      () => assert.fail("answered"),
      (e: unknown) => toCliError(e, host),
    );
  connection.close();
  assert.ok(error instanceof CliError && error.exitCode === exitCode.timedOut, String(error));
  assert.match(error.message, /did not answer in time/);
});

test("another server than the pinned one is refused before a byte is sent", async () => {
  const fingerprint = randomBytes(32).toString("hex");
  await assert.rejects(connect({ host, key: undefined, fingerprint }), /is not the capsule that you adopted/);
});

test("nobody there", async () => {
  await assert.rejects(connect({ host: "127.0.0.1:1", key: undefined, fingerprint: undefined }), /cannot be reached/);
});

test("another session of the process may send before it is connected", async () => {
  const session = connectHttp2(`https://${host}`, { rejectUnauthorized: false });
  session.on("error", () => undefined);
  const stream = session.request({ ":path": "/" });
  stream.on("error", () => undefined);
  await new Promise<void>((connected) => session.once("connect", () => connected()));
  assert.ok((session.state.effectiveLocalWindowSize ?? 0) > 65_535, "its window is wide");
  session.destroy();
});
