/** Every method with random and hostile messages, and with bytes that are none: clear errors, and nothing else happens. */
import assert from "node:assert/strict";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { after, before, describe, test } from "node:test";
import type { DescMethod, DescService, Message } from "@bufbuild/protobuf";
import { services } from "@capsule/api/clients.ts";
import { keyId } from "@capsule/api/key.ts";
import { signToken, thumbprint } from "@capsule/api/token.ts";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ClientKey, readConfig, readKey } from "../../packages/capsulectl/src/config.ts";
import { type Connection, connect } from "../../packages/capsulectl/src/connection.ts";
import { Random } from "../support/random.ts";
import { randomMessage } from "../support/random-message.ts";
import { emulated, TestCapsule } from "../support/test-capsule.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const random = new Random(seed);
const messagesEach = Number(process.env["MESSAGES"] ?? (emulated ? 3 : 25));
/** They would do what they are asked to. */
const left: ReadonlySet<string> = new Set(["Reboot", "Shutdown", "SetHostname", "RollbackUpdate"]);
/** A fault of ours, and not of the request. */
const faults: ReadonlySet<Code> = new Set([Code.Internal, Code.Unknown, Code.DataLoss, Code.Unavailable]);
const callMs = emulated ? 2_000 : 400;

let capsule: TestCapsule;
let connection: Connection;
let key: ClientKey;
let capsuleId: string;
const outer = process.env["XDG_CONFIG_HOME"];
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.start("fuzz", ["busybox"]);
  // Nothing random may lead out of this machine.
  await capsule.host.exec(["ip", "route", "del", "default"]);
  await capsule.apply(
    'kind: Container\nname: witness\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s}\n',
    "--wait=30s",
  );
  process.env["XDG_CONFIG_HOME"] = capsule.configHome;
  const found = readKey();
  const context = (await readConfig()).contexts["test"];
  assert.ok(found !== undefined && context !== undefined);
  [key, capsuleId] = [found, context.capsuleId];
  connection = await connect({ host: context.host, key, fingerprint: context.fingerprint });
  connection.authenticate(capsuleId);
});
after(async () => {
  connection?.close();
  if (outer === undefined) delete process.env["XDG_CONFIG_HOME"];
  else process.env["XDG_CONFIG_HOME"] = outer;
  await capsule?.stop();
});

const methods = services.flatMap((service) =>
  service.methods.filter(({ name }) => !left.has(name)).map((method) => ({ service, method })),
);

/** The error of a call with these messages; undefined when it was taken. */
async function errorOf(service: DescService, method: DescMethod, messages: readonly Message[]): Promise<unknown> {
  const client = connection.client(service) as unknown as Record<string, (...args: unknown[]) => unknown>;
  const call = client[method.localName];
  assert.ok(call !== undefined);
  const clientStreams = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
  const input = clientStreams
    ? (async function* () {
        yield* messages;
      })()
    : messages[0];
  try {
    const answer = call(input, { timeoutMs: callMs });
    if (answer instanceof Promise) await answer;
    else for await (const _ of answer as AsyncIterable<unknown>) break;
    return undefined;
  } catch (error) {
    return error;
  }
}

async function assertUndisturbed(pid: number | undefined): Promise<void> {
  assert.equal(await capsule.capsuledPid(), pid, "capsuled has not been restarted");
  const { status } = await capsule.workload("witness");
  assert.equal(status.phase, "PHASE_RUNNING");
}

describe("hostile messages", () => {
  for (const { service, method } of methods) {
    test(`${service.name}/${method.name}`, async () => {
      const pid = await capsule.capsuledPid();
      for (let i = 0; i < messagesEach; i++) {
        const messages = Array.from({ length: 3 }, () => randomMessage(method.input, random, new Set()));
        const error = await errorOf(service, method, messages);
        if (error === undefined) continue;
        assert.ok(error instanceof ConnectError, String(error));
        assert.ok(!faults.has(error.code), `${Code[error.code]}: ${error.rawMessage.slice(0, 500)}`);
        assert.ok(error.rawMessage.length < 20_000, "an error is for people to read");
      }
      await assertUndisturbed(pid);
    });
  }
});

describe("bytes that are no message", () => {
  let session: ClientHttp2Session;
  before(() => {
    session = connectHttp2(`https://127.0.0.1:${capsule.host.port}`, {
      key: key.keyPem,
      cert: key.certificatePem,
      rejectUnauthorized: false,
    });
    session.on("error", () => undefined);
  });
  after(() => session?.destroy());

  /** The status of a gRPC call with this body; undefined when the stream was reset. */
  async function statusOf(path: string, body: Uint8Array): Promise<number | undefined> {
    const { privateKey, certificateDer } = key;
    const subject = { privateKey, keyId: keyId(privateKey), thumbprint: thumbprint(certificateDer), capsuleId };
    const stream = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      "grpc-timeout": `${callMs}m`,
      authorization: `Bearer ${signToken(subject, new Date())}`,
    });
    return await new Promise((resolve) => {
      let status: string | undefined;
      stream.on("response", (headers) => {
        status ??= headers["grpc-status"] as string | undefined;
      });
      stream.on("trailers", (trailers) => {
        status ??= trailers["grpc-status"] as string | undefined;
      });
      stream.on("error", () => undefined);
      stream.on("close", () => resolve(status === undefined ? undefined : Number(status)));
      stream.resume();
      stream.end(body);
    });
  }

  test("every method", async () => {
    const pid = await capsule.capsuledPid();
    for (const { service, method } of methods) {
      for (let i = 0; i < (emulated ? 2 : 6); i++) {
        const payload = random.bytes(random.pick([0, 1, 10, 1_000]));
        const framed = new Uint8Array(5 + payload.length);
        framed.set(payload, 5);
        // The length of the frame: right, too long, or huge.
        new DataView(framed.buffer).setUint32(1, random.pick([payload.length, payload.length + 7, 2 ** 32 - 1]));
        framed[0] = random.pick([0, 0, 0, 1, 2, 255]);
        const body = random.pick([framed, payload]);
        const status = await statusOf(`/${service.typeName}/${method.name}`, body);
        assert.ok(status !== 2, `${method.name}: UNKNOWN for ${Buffer.from(body).toString("hex").slice(0, 80)}`);
      }
    }
    await assertUndisturbed(pid);
  });

  test("paths that are no method", async () => {
    for (const path of [
      "/",
      "/x",
      "/capsule.v1.WorkloadService/Nothing",
      "/capsule.v1.WorkloadService/../x",
      `/${"a".repeat(5_000)}`,
    ])
      assert.notEqual(await statusOf(path, new Uint8Array()), 0, path.slice(0, 40));
    await assertUndisturbed(await capsule.capsuledPid());
  });
});
