/**
 * Who gets in: every method × every kind of caller, by a real TLS server. Handlers are left empty: a call that the gate
 * lets through ends as `Unimplemented` (reflection answers), one that it refuses with the reason in the table.
 */
import assert from "node:assert/strict";
import { createPublicKey, type KeyObject, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { connect as connectTls } from "node:tls";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { CapsuleService, ErrorInfoSchema, Role, WorkloadService } from "@capsule/api";
import { services } from "@capsule/api/clients.ts";
import { ServerReflection } from "@capsule/api/gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ServerReflectionAlpha } from "@capsule/api/gen/grpc/reflection/v1alpha/reflection_pb.js";
import { rawPublicKey } from "@capsule/api/key.ts";
import { signToken } from "@capsule/api/token.ts";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { claimWindowS, uptimeS } from "../auth/boot.ts";
import { Gate } from "../auth/gate.ts";
import { loadIdentity, type ServerIdentity } from "../auth/identity.ts";
import { ReplayCache } from "../auth/replay.ts";
import { Store } from "../store/store.ts";
import { type Client, clientOf, type Tweak, tokenOf } from "./client.test-support.ts";
import { type Server, startServer } from "./listener.ts";
import { reflection } from "./reflection.ts";

type Expected = "open" | "claim" | "viewer" | "operator" | "admin";

/** What must be, said a second time and by hand: a slip in an option of a .proto shows here. */
const table: Readonly<Record<string, Expected>> = {
  "IdentityService/GetIdentity": "open",
  "IdentityService/Claim": "claim",
  "IdentityService/WhoAmI": "viewer",
  "IdentityService/ListKeys": "viewer",
  "IdentityService/AddKey": "admin",
  "IdentityService/RemoveKey": "admin",
  "IdentityService/ListAudit": "admin",
  "CapsuleService/GetInfo": "viewer",
  "CapsuleService/GetMetrics": "viewer",
  "CapsuleService/SystemLogs": "viewer",
  "CapsuleService/SystemStats": "viewer",
  "CapsuleService/SupportBundle": "admin",
  "CapsuleService/SetHostname": "admin",
  "CapsuleService/SystemEvents": "viewer",
  "CapsuleService/Debug": "admin",
  "CapsuleService/EndDebug": "admin",
  "CapsuleService/RepairPerm": "admin",
  "CapsuleService/Reboot": "admin",
  "CapsuleService/Shutdown": "admin",
  "WorkloadService/Apply": "operator",
  "WorkloadService/GetWorkload": "viewer",
  "WorkloadService/ListWorkloads": "viewer",
  "WorkloadService/WatchWorkloads": "viewer",
  "WorkloadService/DeleteWorkloads": "operator",
  "WorkloadService/StartWorkload": "operator",
  "WorkloadService/StopWorkload": "operator",
  "WorkloadService/RestartWorkload": "operator",
  "WorkloadService/PauseWorkload": "operator",
  "WorkloadService/ResumeWorkload": "operator",
  "WorkloadService/Logs": "viewer",
  "WorkloadService/Exec": "operator",
  "WorkloadService/StatPath": "operator",
  "WorkloadService/CopyIn": "operator",
  "WorkloadService/CopyOut": "operator",
  "WorkloadService/Events": "viewer",
  "WorkloadService/Stats": "viewer",
  "VolumeService/CreateVolume": "operator",
  "VolumeService/GetVolume": "viewer",
  "VolumeService/ListVolumes": "viewer",
  "VolumeService/ResizeVolume": "operator",
  "VolumeService/DeleteVolumes": "operator",
  "VolumeService/CreateSnapshot": "operator",
  "VolumeService/ListSnapshots": "viewer",
  "VolumeService/DeleteSnapshots": "operator",
  "VolumeService/RestoreSnapshot": "operator",
  "VolumeService/SetSnapshotSchedule": "operator",
  "VolumeService/ExportVolume": "operator",
  "VolumeService/ImportVolume": "operator",
  "VolumeService/GetImport": "operator",
  "VolumeService/CheckVolume": "operator",
  "VolumeService/RepairVolume": "operator",
  "VolumeService/Shell": "operator",
  "VolumeService/StatVolumePath": "operator",
  "VolumeService/CopyIntoVolume": "operator",
  "VolumeService/CopyOutOfVolume": "operator",
  "PoolService/ListPools": "viewer",
  "PoolService/SetPool": "admin",
  "MachineService/GetMachine": "viewer",
  "MachineService/ApplyMachine": "admin",
  "MachineService/ConfirmMachine": "admin",
  "MachineService/RevertMachine": "admin",
  "UpdateService/PushUpdate": "admin",
  "UpdateService/GetUpdateStatus": "viewer",
  "UpdateService/ConfirmUpdate": "admin",
  "UpdateService/RollbackUpdate": "admin",
  "InstallService/ListTargets": "admin",
  "InstallService/Install": "admin",
  "ImageService/ListImages": "viewer",
  "ImageService/PullImage": "operator",
  "ImageService/PushImage": "operator",
  "ImageService/RemoveImage": "operator",
  "ImageService/PruneImages": "operator",
  "ImageService/ListRegistries": "viewer",
  "ImageService/SetRegistry": "admin",
  "ImageService/RemoveRegistry": "admin",
  "ServerReflection/ServerReflectionInfo": "viewer",
};

const reflected: readonly DescService[] = [ServerReflection, ServerReflectionAlpha];
const methods = [...services, ...reflected].flatMap(({ methods }) => methods);
const roles = { viewer: Role.VIEWER, operator: Role.OPERATOR, admin: Role.ADMIN } as const;
type RoleName = keyof typeof roles;
const log = pino({ level: "silent" });

interface Capsule {
  readonly server: Server;
  readonly store: Store;
  readonly identity: ServerIdentity;
}

let dir: string;
let adopted: Capsule;
let unclaimed: Capsule;
let closed: Capsule;
let clients: Record<RoleName | "stranger", Client>;
const nobody = undefined;

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-gate-"));
  const [viewer, operator, admin, stranger] = await Promise.all([clientOf(), clientOf(), clientOf(), clientOf()]);
  clients = { viewer, operator, admin, stranger };
  adopted = await aCapsule("adopted", uptimeS() - 600);
  unclaimed = await aCapsule("unclaimed", uptimeS() - 600);
  closed = await aCapsule("closed", uptimeS() - claimWindowS - 1);
  for (const name of ["viewer", "operator", "admin"] as const) enrol(adopted.store, clients[name], name);
});

after(async () => {
  for (const { server, store } of [adopted, unclaimed, closed]) {
    await server.stop(0);
    store.close();
  }
  rmSync(dir, { recursive: true });
});

async function aCapsule(name: string, bootUptimeS: number): Promise<Capsule> {
  const store = new Store(join(dir, `${name}.db`));
  const identity = await loadIdentity(store, join(dir, name));
  const boot = { uptimeS: bootUptimeS };
  const replay = new ReplayCache({ dir: join(dir, `${name}-used`), lifetimeS: 70 }, new Date());
  const gate = new Gate({ store, capsuleId: identity.capsuleId, boot, replay });
  const routes = (router: Parameters<Parameters<typeof startServer>[0]["routes"]>[0]): void => {
    for (const service of services) router.service(service, {});
    reflection(router, services);
  };
  const server = await startServer({ port: 0, address: "127.0.0.1", identity, gate, store, log, routes });
  return { server, store, identity };
}

function enrol(store: Store, client: Client, name: RoleName): void {
  const publicKey = rawPublicKey(publicOf(client.privateKey));
  store.keys.add({ id: client.keyId, name, role: roles[name], publicKey, createdAt: new Date() });
}

function publicOf(key: KeyObject): KeyObject {
  return createPublicKey(key);
}

const transports = new Map<string, Transport>();

function transportOf({ server }: Capsule, client: Client | undefined): Transport {
  const id = `${server.port}/${client?.keyId ?? ""}`;
  let transport = transports.get(id);
  if (transport === undefined) {
    transport = createGrpcTransport({ baseUrl: `https://127.0.0.1:${server.port}`, nodeOptions: optionsOf(client) });
    transports.set(id, transport);
  }
  return transport;
}

function optionsOf(client: Client | undefined) {
  const pair = client === undefined ? {} : { cert: client.certificatePem, key: client.keyPem };
  return { rejectUnauthorized: false, ...pair };
}

/** "in", or the reason of the refusal. */
async function call(transport: Transport, method: DescMethod, token: string | undefined): Promise<string> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout(5_000);
  try {
    if (method.methodKind === "unary") {
      await transport.unary(method as never, signal, undefined, headers, {});
    } else {
      const nothing = (async function* () {})();
      const { message } = await transport.stream(method as never, signal, undefined, headers, nothing as never);
      for await (const _ of message);
    }
    return "in";
  } catch (error) {
    const failure = ConnectError.from(error);
    if (failure.code === Code.Unimplemented) return "in";
    const reason = failure.findDetails(ErrorInfoSchema)[0]?.reason ?? `${Code[failure.code]}: ${failure.message}`;
    return reason;
  }
}

async function attempt(capsule: Capsule, client: Client | undefined, method: DescMethod, tweak: Tweak = {}) {
  const token = client === undefined ? undefined : await tokenOf(client, capsule.identity.capsuleId, tweak);
  return await call(transportOf(capsule, client), method, token);
}

for (const method of methods) {
  const name = `${method.parent.name}/${method.name}`;
  const expected = table[name];

  describe(name, () => {
    it("is in the table", () => assert.notEqual(expected, undefined, "say here who may call the new method"));
    if (expected === undefined) return;
    const isOpen = expected === "open";
    const isClaim = expected === "claim";
    const unlessOpen = (reason: string): string => (isOpen ? "in" : reason);

    it("without a certificate", async () => {
      assert.equal(await attempt(adopted, nobody, method), unlessOpen("NO_CERTIFICATE"));
      const token = await tokenOf(clients.admin, adopted.identity.capsuleId);
      assert.equal(await call(transportOf(adopted, nobody), method, token), unlessOpen("NO_CERTIFICATE"));
    });

    it("with a key that is not enrolled", async () => {
      const adoptedAlready = isClaim ? "ALREADY_ADOPTED" : "UNKNOWN_KEY";
      assert.equal(await attempt(adopted, clients.stranger, method), unlessOpen(adoptedAlready));
    });

    it("with each role", async () => {
      for (const role of ["viewer", "operator", "admin"] as const) {
        let outcome = isClaim ? "ALREADY_ADOPTED" : "in";
        if (!isOpen && !isClaim && roles[role] < roles[expected]) outcome = "ROLE_TOO_LOW";
        assert.equal(await attempt(adopted, clients[role], method), outcome, role);
      }
    });

    it("while nobody has adopted the capsule", async () => {
      const openWindow = isClaim || isOpen ? "in" : "UNKNOWN_KEY";
      assert.equal(await attempt(unclaimed, clients.stranger, method), openWindow);
      const closedWindow = isClaim ? "CLAIM_WINDOW_CLOSED" : openWindow;
      assert.equal(await attempt(closed, clients.stranger, method), closedWindow);
      assert.equal(await attempt(unclaimed, nobody, method), unlessOpen("NO_CERTIFICATE"));
    });

    it("with a token that is wrong in one way", async () => {
      // A claim is tried where it would pass, everything else by an administrator.
      const [capsule, client] = isClaim
        ? ([unclaimed, clients.stranger] as const)
        : ([adopted, clients.admin] as const);
      const transport = transportOf(capsule, client);
      const { capsuleId } = capsule.identity;
      const refusals: readonly (readonly [string | undefined, string])[] = [
        [undefined, "NO_TOKEN"],
        ["a.b.c", "BAD_TOKEN"],
        [await tokenOf(clients.viewer, capsuleId), "BAD_TOKEN"],
        [await tokenOf(client, capsuleId, { privateKey: clients.viewer.privateKey }), "BAD_TOKEN"],
        [await tokenOf(client, capsuleId, { subject: clients.viewer.keyId }), "WRONG_CERTIFICATE"],
        [await tokenOf(client, capsuleId, { thumbprint: clients.viewer.thumbprint }), "WRONG_CERTIFICATE"],
        [await tokenOf(client, "abcdefghijklmnopqrstuvwxyz"), "WRONG_AUDIENCE"],
        [await tokenOf(client, capsuleId, { offsetS: -66 }), "TOKEN_EXPIRED"],
        [await tokenOf(client, capsuleId, { offsetS: 30 }), "TOKEN_NOT_YET_VALID"],
        [await tokenOf(client, capsuleId, { lifetimeS: 61 }), "BAD_TOKEN"],
        [await tokenOf(client, capsuleId, { id: "" }), "BAD_TOKEN"],
        [await tokenOf(client, capsuleId, { id: "x".repeat(65) }), "BAD_TOKEN"],
      ];
      for (const [token, reason] of refusals) assert.equal(await call(transport, method, token), unlessOpen(reason));
      const once = await tokenOf(client, capsuleId);
      assert.equal(await call(transport, method, once), "in");
      assert.equal(await call(transport, method, once), unlessOpen("TOKEN_REPLAYED"));
    });
  });
}

describe("the gate", () => {
  it("knows no method beyond the table", () => {
    const names = new Set(methods.map(({ parent, name }) => `${parent.name}/${name}`));
    assert.deepEqual(
      Object.keys(table).filter((name) => !names.has(name)),
      [],
    );
  });

  it("takes the CLI's own tokens, over gRPC-Web, Connect and HTTP/1.1 too", async () => {
    const method = WorkloadService.method.listWorkloads;
    const { capsuleId } = adopted.identity;
    const nodeOptions = optionsOf(clients.viewer);
    const baseUrl = `https://127.0.0.1:${adopted.server.port}`;
    for (const transport of [
      createGrpcWebTransport({ baseUrl, httpVersion: "2", nodeOptions }),
      createGrpcWebTransport({ baseUrl, httpVersion: "1.1", nodeOptions }),
      createConnectTransport({ baseUrl, httpVersion: "2", nodeOptions }),
      createConnectTransport({ baseUrl, httpVersion: "1.1", nodeOptions }),
    ]) {
      assert.equal(await call(transport, method, signToken({ ...clients.viewer, capsuleId }, new Date())), "in");
      assert.equal(await call(transport, method, undefined), "NO_TOKEN");
    }
  });

  it("writes refused and passed changes to the audit log", async () => {
    await attempt(adopted, clients.viewer, CapsuleService.method.reboot);
    await attempt(adopted, clients.admin, CapsuleService.method.reboot);
    const entries = adopted.store.audit.newest(2);
    assert.deepEqual(
      entries.map(({ keyName, method, result }) => [keyName === "" ? "" : keyName, method, result]),
      [
        [entries[0]?.keyName ?? "", "capsule.v1.CapsuleService/Reboot", "PermissionDenied"],
        ["admin", "capsule.v1.CapsuleService/Reboot", "Unimplemented"],
      ],
    );
  });

  it("survives hostile bytes, with and without TLS", async () => {
    const { port } = adopted.server;
    for (let i = 0; i < 20; i++) await garbage(connectTcp(port, "127.0.0.1"), "connect");
    for (const ALPNProtocols of [["h2"], ["http/1.1"]]) {
      const open = () => connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols });
      for (let i = 0; i < 10; i++) await garbage(open(), "secureConnect");
    }
    assert.equal(await attempt(adopted, clients.viewer, WorkloadService.method.listWorkloads), "in");
  });

  it("answers a request for a host that cannot be one with 400, and goes on", async () => {
    const { port } = adopted.server;
    const options = { port, host: "127.0.0.1", rejectUnauthorized: false };
    for (const authority of ["fe80::1:50000", "x:999999", "[::1"]) {
      const session = connectHttp2(`https://127.0.0.1:${port}`, { rejectUnauthorized: false });
      const headers = {
        ":authority": authority,
        ":path": "/capsule.v1.IdentityService/GetIdentity",
        ":method": "POST",
      };
      const [{ ":status": status }] = (await once(session.request(headers).end(), "response")) as [
        { ":status": number },
      ];
      session.destroy();
      assert.equal(status, 400, authority);
      const socket = connectTls({ ...options, ALPNProtocols: ["http/1.1"] });
      socket.write(`GET / HTTP/1.1\r\nHost: ${authority}\r\nConnection: close\r\n\r\n`);
      const [line] = (await once(socket, "data")) as [Buffer];
      socket.destroy();
      assert.match(line.toString(), /^HTTP\/1\.1 40[04] /, authority);
    }
    assert.equal(await attempt(adopted, clients.viewer, WorkloadService.method.listWorkloads), "in");
  });
});

async function garbage(socket: ReturnType<typeof connectTcp>, ready: string): Promise<void> {
  await new Promise<void>((resolve) => {
    socket.on("error", () => undefined).on("close", () => resolve());
    socket.once(ready, () => {
      socket.end(randomBytes(4_096));
      setTimeout(() => socket.destroy(), 20);
    });
  });
}
