import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http2";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { agentVsockPort, GuestAgent, GuestState } from "@capsule/api/guest.ts";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { dialAgent } from "./agent.ts";

let dir: string;
let servers: Server[];
/** All that was said before gRPC, in lines. */
let said: string[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "capsule-agent-"));
  servers = [];
  said = [];
});

afterEach(async () => {
  for (const server of servers) server.close();
  await rm(dir, { recursive: true, force: true });
});

const http = createHttpServer(
  connectNodeAdapter({
    routes: (router) =>
      router.service(GuestAgent, {
        setTime: () => ({}),
        async *watchState() {
          yield { state: GuestState.IDLE, version: "1.2.3" };
        },
      }),
  }),
);

async function listen(serve: (socket: Socket) => Promise<void>): Promise<string> {
  const path = join(dir, `agent${servers.length}`);
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    serve(socket).catch(() => socket.destroy());
  }).listen(path);
  servers.push(server);
  await once(server, "listening");
  return path;
}

/** The next thing said, which must be one whole line: nobody says more before he is answered. */
async function line(socket: Socket): Promise<string> {
  const next = once(socket, "data");
  socket.resume();
  const [data] = (await next) as [Buffer];
  socket.pause();
  const text = data.toString("latin1");
  assert.match(text, /^[^\n]+\n$/);
  said.push(text);
  return text;
}

/** As Firecracker does (docs/vsock.md in its sources): an answer if somebody listens on the port, else the end. */
async function firecrackerAsks(socket: Socket, answer = "OK 1073741824\n"): Promise<void> {
  const port = /^CONNECT ([0-9]+)\n$/.exec(await line(socket))?.[1];
  if (port !== String(agentVsockPort)) throw new Error("nobody listens there");
  socket.write(answer);
}

async function agentAnswers(socket: Socket, before = ""): Promise<void> {
  const nonce = /^CONNECT ([0-9a-f]{32})\n$/.exec(await line(socket))?.[1];
  assert(nonce !== undefined);
  socket.write(`${before}OK ${nonce}\n`);
  http.emit("connection", socket);
}

test("Firecracker is told the port first, the agent the nonce then", async () => {
  const path = await listen(async (socket) => {
    await firecrackerAsks(socket);
    await agentAnswers(socket);
  });
  const agent = await dialAgent(path, agentVsockPort);
  assert(agent !== undefined);
  assert.match(said.join(""), /^CONNECT 52\nCONNECT [0-9a-f]{32}\n$/);
  await agent.client.setTime({});
  for await (const { version } of agent.client.watchState({})) assert.equal(version, "1.2.3");
  agent.close();
  await agent.closed;
});

test("answers come in pieces, and with what an earlier caller left", async () => {
  const path = await listen(async (socket) => {
    await firecrackerAsks(socket, "OK 10");
    await new Promise((resolve) => setTimeout(resolve, 20));
    socket.write("24\n");
    await agentAnswers(socket, `OK ${"0".repeat(32)}\n${"\0".repeat(70_000)}`);
  });
  const agent = await dialAgent(path, agentVsockPort);
  await agent?.client.setTime({});
  assert(agent !== undefined);
  agent.close();
});

test("a port of QEMU's has the agent itself behind it", async () => {
  const path = await listen(async (socket) => await agentAnswers(socket, "rest of another caller"));
  const agent = await dialAgent(path);
  await agent?.client.setTime({});
  assert(agent !== undefined);
  assert.equal(said.length, 1);
  agent.close();
});

test("nobody is there as long as nobody answers as he should", async () => {
  assert.equal(await dialAgent(join(dir, "nobody"), agentVsockPort), undefined);
  const closes = await listen(async (socket) => {
    await line(socket);
    socket.destroy();
  });
  assert.equal(await dialAgent(closes, agentVsockPort), undefined);
  for (const answer of ["OK\n", "NO 12\n", "OK 12 13\n", "x".repeat(100)]) {
    const wrong = await listen(async (socket) => await firecrackerAsks(socket, answer));
    assert.equal(await dialAgent(wrong, agentVsockPort), undefined, answer);
  }
  const noAgent = await listen(async (socket) => {
    await firecrackerAsks(socket);
    await line(socket);
    socket.destroy();
  });
  assert.equal(await dialAgent(noAgent, agentVsockPort), undefined);
});

test("one that says nothing is given up", async () => {
  const path = await listen(async (socket) => {
    await line(socket);
  });
  const began = performance.now();
  assert.equal(await dialAgent(path, agentVsockPort), undefined);
  assert(performance.now() - began > 1_500);
});
