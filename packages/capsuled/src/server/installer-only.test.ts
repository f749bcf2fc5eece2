/** An installer answers to few methods, and to all others with what it is: every method of the API, by a real TLS server. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { DescService } from "@bufbuild/protobuf";
import { CapsuleService, ErrorInfoSchema, IdentityService, InstallService } from "@capsule/api";
import { clientsOf } from "@capsule/api/clients.ts";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { uptimeS } from "../auth/boot.ts";
import { Gate } from "../auth/gate.ts";
import { loadIdentity } from "../auth/identity.ts";
import { ReplayCache } from "../auth/replay.ts";
import { Store } from "../store/store.ts";
import { type Client, clientOf, tokenOf } from "./client.test-support.ts";
import { noInstaller } from "./install.ts";
import { installerOnly } from "./installer-only.ts";
import { type Server, startServer } from "./listener.ts";

const own = [IdentityService, InstallService];
const all: DescService[] = [];
clientsOf((service) => {
  all.push(service);
  return undefined as never;
});
const log = pino({ level: "silent" });
let dir: string;
let store: Store;
let server: Server;
let capsuleId: string;
let client: Client;
let transport: Transport;

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-installer-"));
  store = new Store(join(dir, "state.db"));
  client = await clientOf();
  const identity = await loadIdentity(store, join(dir, "tls"));
  ({ capsuleId } = identity);
  const replay = new ReplayCache({ dir: join(dir, "used"), lifetimeS: 70 }, new Date());
  const gate = new Gate({ store, capsuleId, boot: { uptimeS: uptimeS() }, replay });
  server = await startServer({
    ...{ port: 0, address: "127.0.0.1", identity, gate, store, log },
    guards: [installerOnly.guard(own)],
    routes: (router) => {
      router.service(IdentityService, {});
      router.service(InstallService, noInstaller());
      installerOnly.refuseOthers(router, own);
    },
  });
  const nodeOptions = { rejectUnauthorized: false, cert: client.certificatePem, key: client.keyPem };
  transport = createGrpcTransport({ baseUrl: `https://127.0.0.1:${server.port}`, nodeOptions });
});
after(async () => {
  await server.stop(0);
  store.close();
  rmSync(dir, { recursive: true });
});

/** The reason of the refusal, of a call with a token of a key that is enrolled nowhere. */
async function reasonOf(service: DescService, name: string): Promise<string | undefined> {
  const method = service.methods.find((one) => one.name === name);
  assert.ok(method !== undefined);
  const headers = { authorization: `Bearer ${await tokenOf(client, capsuleId)}` };
  const signal = AbortSignal.timeout(5_000);
  try {
    if (method.methodKind === "unary") await transport.unary(method as never, signal, undefined, headers, {});
    else {
      const nothing = (async function* () {})();
      const { message } = await transport.stream(method as never, signal, undefined, headers, nothing as never);
      for await (const _ of message);
    }
    return undefined;
  } catch (error) {
    const failure = ConnectError.from(error);
    return failure.findDetails(ErrorInfoSchema)[0]?.reason ?? failure.message;
  }
}

test("everything that a capsule does is refused to everybody, with what this is", async () => {
  for (const service of all.filter((one) => !own.some(({ typeName }) => typeName === one.typeName)))
    for (const { name } of service.methods) assert.equal(await reasonOf(service, name), "INSTALLER", name);
  for (const name of ["ListKeys", "AddKey", "RemoveKey", "ListAudit"])
    assert.equal(await reasonOf(IdentityService, name), "INSTALLER", name);
});

test("installing is for who has claimed it", async () => {
  for (const { name } of InstallService.methods)
    assert.equal(await reasonOf(InstallService, name), "UNKNOWN_KEY", name);
  for (const name of ["GetIdentity", "Claim"])
    assert.match((await reasonOf(IdentityService, name)) ?? "", /not implemented/);
});

test("the refusal says what to do", async () => {
  await assert.rejects(
    createClient(CapsuleService, transport).getInfo({}),
    /started as an installer.*capsulectl install/,
  );
});
