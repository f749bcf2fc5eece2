/**
 * Calls per second of processor time of a server whose handler does nothing, with the gate and without. The server runs
 * in a process of its own: `node bench/api.ts serve|open PORTFILE DIR`.
 */
import { spawn } from "node:child_process";
import { createPublicKey } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { IdentityService, Role } from "@capsule/api";
import { keyId, rawPublicKey } from "@capsule/api/key.ts";
import { pino } from "pino";
import { ensureKey } from "../packages/capsulectl/src/config.ts";
import { connect } from "../packages/capsulectl/src/connection.ts";
import { readBoot } from "../packages/capsuled/src/auth/boot.ts";
import { Gate } from "../packages/capsuled/src/auth/gate.ts";
import { loadIdentity } from "../packages/capsuled/src/auth/identity.ts";
import { ReplayCache } from "../packages/capsuled/src/auth/replay.ts";
import { startServer } from "../packages/capsuled/src/server/listener.ts";
import { Store } from "../packages/capsuled/src/store/store.ts";
import { cpuSeconds, type Row } from "./measure.ts";

const calls = 3_000;
const atOnce = 32;

/** The open gate of the comparison. */
class OpenGate extends Gate {
  override admit(): { certificate: undefined; key: undefined } {
    return { certificate: undefined, key: undefined };
  }
}

async function serve(mode: string, portFile: string, dir: string): Promise<void> {
  const store = new Store(join(dir, `state-${mode}.db`));
  const identity = await loadIdentity(store, join(dir, "tls"));
  const { privateKey } = await ensureKey();
  const publicKey = createPublicKey(privateKey);
  store.keys.add({
    id: keyId(publicKey),
    name: "bench",
    role: Role.ADMIN,
    publicKey: rawPublicKey(publicKey),
    createdAt: new Date(),
  });
  const boot = readBoot(join(dir, "auth"));
  const replay = new ReplayCache({ dir: join(dir, "auth"), lifetimeS: 70 }, new Date());
  const GateOf = mode === "open" ? OpenGate : Gate;
  const gate = new GateOf({ store, capsuleId: identity.capsuleId, boot, replay });
  const server = await startServer({
    port: 0,
    address: "127.0.0.1",
    identity,
    gate,
    store,
    log: pino({ level: "silent" }),
    routes: (router) => router.service(IdentityService, { whoAmI: () => ({}) }),
  });
  writeFileSync(portFile, `${server.port} ${identity.capsuleId}`);
}

async function callsPerCpuSecond(mode: "serve" | "open", dir: string): Promise<number> {
  const portFile = join(dir, `port-${mode}`);
  const child = spawn(process.execPath, [import.meta.filename, mode, portFile, dir], {
    env: { ...process.env, XDG_CONFIG_HOME: dir },
    stdio: ["ignore", "inherit", "inherit"],
  });
  try {
    while (!existsSync(portFile)) await sleep(20);
    const [port, capsuleId = ""] = readFileSync(portFile, "utf8").split(" ");
    process.env["XDG_CONFIG_HOME"] = dir;
    const connection = await connect({ host: `127.0.0.1:${port}`, key: await ensureKey(), fingerprint: undefined });
    // The client signs its tokens in both, so that the server sees the same requests.
    connection.authenticate(capsuleId);
    const client = connection.client(IdentityService);
    const run = async (count: number): Promise<void> => {
      for (let done = 0; done < count; done += atOnce)
        await Promise.all(Array.from({ length: atOnce }, () => client.whoAmI({})));
    };
    await run(1_000);
    const before = cpuSeconds(child.pid ?? 0);
    await run(calls);
    const used = cpuSeconds(child.pid ?? 0) - before;
    connection.close();
    return calls / used;
  } finally {
    child.kill("SIGKILL");
  }
}

export async function apiRow(): Promise<Row> {
  const dir = mkdtempSync(join(tmpdir(), "capsule-bench-api-"));
  try {
    await (async () => {
      process.env["XDG_CONFIG_HOME"] = dir;
      await ensureKey();
    })();
    const open = await callsPerCpuSecond("open", dir);
    const gated = await callsPerCpuSecond("serve", dir);
    return {
      what: "API: small authenticated calls per second of one core",
      ours: `${Math.round(gated)}/s`,
      against: `the same handler without authentication: ${Math.round(open)}/s`,
      goal: "≥ 0.6 ×",
      result: `${(gated / open).toFixed(2)} ×`,
      met: gated / open >= 0.6,
    };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const [, , mode = "", portFile = "", dir = ""] = process.argv;
  await serve(mode, portFile, dir);
}
