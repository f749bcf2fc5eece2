import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect as connectHttp2 } from "node:http2";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createServer, type Server } from "node:tls";
import { IdentityService, VolumeService } from "@capsule/api";
import { makeClientCertificate } from "./certificate.ts";
import { connect } from "./connection.ts";
import { CliError, exitCode } from "./errors.ts";
import { toCliError } from "./rpc-errors.ts";

let silent: Server;
let host: string;
let keyPem: string;
let certificatePem: string;
before(async () => {
  ({ keyPem, certificatePem } = await makeClientCertificate());
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

test("a connection that is reset under a call ends it, as neither done nor refused", async () => {
  const resetting = createServer({ key: keyPem, cert: certificatePem, minVersion: "TLSv1.3", ALPNProtocols: ["h2"] });
  const raw: Socket[] = [];
  resetting.on("connection", (socket) => raw.push(socket));
  resetting.on("secureConnection", (socket) => {
    socket.on("error", () => undefined);
    // The request is on its way.
    socket.once("data", () => raw.pop()?.resetAndDestroy());
  });
  await new Promise<void>((done) => resetting.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${(resetting.address() as AddressInfo).port}`;
  const connection = await connect({ host: address, key: undefined, fingerprint: undefined });
  const error = await connection
    .client(IdentityService)
    .getIdentity({})
    .then(
      () => assert.fail("answered"),
      (e: unknown) => toCliError(e, address),
    );
  connection.close();
  resetting.close();
  assert.ok(error instanceof CliError && error.exitCode === exitCode.failed, String(error));
  assert.match(error.message, /was lost/);
});

test("a stream of a capsule that has vanished ends, and the program goes on", async () => {
  const ping = { intervalMs: 50, timeoutMs: 100 };
  const connection = await connect({ host, key: undefined, fingerprint: undefined, ping });
  const error = await connection
    .client(VolumeService)
    .exportVolume({ volume: "data" })
    [Symbol.asyncIterator]()
    .next()
    .then(
      () => assert.fail("answered"),
      (e: unknown) => toCliError(e, host),
    );
  connection.close();
  assert.match(error.message, /PING timed out/);
  // An error that nobody hears would end this process now.
  await sleep(100);
});

test("another server than the pinned one is refused before a byte is sent", async () => {
  const fingerprint = randomBytes(32).toString("hex");
  await assert.rejects(connect({ host, key: undefined, fingerprint }), /is not the capsule that you adopted/);
});

test("nobody there", async () => {
  await assert.rejects(connect({ host: "127.0.0.1:1", key: undefined, fingerprint: undefined }), /cannot be reached/);
});

test("a connection that is being made can be given up, and one that stands is not touched", async () => {
  const mute = createTcpServer((socket) => socket.on("error", () => undefined));
  await new Promise<void>((done) => mute.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${(mute.address() as AddressInfo).port}`;
  for (const signal of [AbortSignal.abort(), AbortSignal.timeout(50)]) {
    const making = connect({ host: address, key: undefined, fingerprint: undefined, signal });
    await assert.rejects(making, /it was given up/);
  }
  mute.close();
  const later = new AbortController();
  const connection = await connect({ host, key: undefined, fingerprint: undefined, signal: later.signal });
  later.abort();
  const call = connection.client(IdentityService).getIdentity({}, { timeoutMs: 100 });
  await assert.rejects(call, /timed out/);
  connection.close();
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
