/**
 * The agent in a guest: gRPC on one connection. The capsule's side of it is a Unix socket, behind which is a virtio serial
 * port, or a monitor that asks for a port of virtio-vsock first. There is one caller at a time, and what an earlier one has
 * left may still come: who connects says `CONNECT NONCE`, and what follows `OK NONCE` is for him (guest.proto). What comes
 * from the guest is a stranger's: nothing of it is trusted.
 */
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { bulkStreams } from "@capsule/api/bulk-client.ts";
import { GuestAgent } from "@capsule/api/guest.ts";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

export interface Agent {
  readonly client: Client<typeof GuestAgent>;
  /** The same for streams of bytes, whose messages may come cut differently (bulk-client.ts). */
  readonly bulk: Client<typeof GuestAgent>;
  /** Resolves when the connection is over: the guest is gone, or its agent. */
  readonly closed: Promise<void>;
  close(): void;
}

/** How long the guest may take to answer, in milliseconds. */
const answerMs = 2_000;

/** So much of what was said is kept while an answer is waited for: more than any. In bytes. */
const maxAnswer = 64;
/** Of what Firecracker says before the guest: `OK`, a number of 32 bits. */
const maxPortAnswer = 16;

/** Connects to the agent; `port`: as the backend's `agentPort`. Undefined when nobody answers (yet). */
export async function dialAgent(socketPath: string, port?: number): Promise<Agent | undefined> {
  const socket = await handshake(socketPath, port);
  if (socket === undefined) return undefined;
  const baseUrl = "http://guest.local";
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const manager = new Http2SessionManager(baseUrl, {}, {
    // One connection: a second one is another agent's, after `closed`.
    createConnection: () => {
      if (socket.destroyed) throw new ConnectError("the connection to the agent is over", Code.Unavailable);
      return socket;
    },
  } as ConstructorParameters<typeof Http2SessionManager>[2]);
  const transport = createGrpcTransport({ baseUrl, sessionManager: manager, acceptCompression: [] });
  return {
    client: createClient(GuestAgent, transport),
    bulk: createClient(GuestAgent, {
      ...transport,
      stream: bulkStreams({ baseUrl, sessionManager: manager, interceptors: [] }),
    }),
    closed,
    close: () => {
      manager.abort();
      socket.destroy();
    },
  };
}

async function handshake(path: string, port: number | undefined): Promise<Socket | undefined> {
  const nonce = randomBytes(16).toString("hex");
  const socket = connect(path);
  // A socket that fails is closed too.
  socket.on("error", () => undefined);
  const timer = setTimeout(() => socket.destroy(), answerMs);
  const isAgents =
    (port === undefined || (await answered(socket, `CONNECT ${port}\n`, endOfPortAnswer))) &&
    (await answered(socket, `CONNECT ${nonce}\n`, (said) => endOfAnswer(said, Buffer.from(`OK ${nonce}\n`))));
  clearTimeout(timer);
  if (isAgents && !socket.destroyed) return socket;
  socket.destroy();
  return undefined;
}

/** Where the answer ends in what was said; -1 while it may still come, undefined when it is another one. */
type EndOf = (said: Buffer) => number | undefined;

/** What an earlier caller has left may be before it. */
function endOfAnswer(said: Buffer, answer: Buffer): number {
  const found = said.indexOf(answer);
  return found < 0 ? -1 : found + answer.length;
}

/** The first line of a new connection: nothing of anybody else can be before it. */
function endOfPortAnswer(said: Buffer): number | undefined {
  const end = said.indexOf("\n") + 1;
  if (end > 0) return /^OK [0-9]+\n$/.test(said.toString("latin1", 0, end)) ? end : undefined;
  return said.length < maxPortAnswer ? -1 : undefined;
}

/** Says a line, and whether it was answered. What came behind the answer is left to be read. */
async function answered(socket: Socket, line: string, endOf: EndOf): Promise<boolean> {
  if (socket.destroyed) return false;
  socket.write(line);
  return await new Promise<boolean>((resolve) => {
    let said = Buffer.alloc(0);
    const done = (isAnswered: boolean): void => {
      socket.off("readable", read);
      socket.off("close", closed);
      resolve(isAnswered);
    };
    const closed = (): void => done(false);
    const read = (): void => {
      const data = socket.read() as Buffer | null;
      if (data === null) return;
      said = Buffer.concat([said, data]);
      const end = endOf(said);
      if (end === -1) {
        said = said.subarray(-maxAnswer);
        return;
      }
      const rest = end === undefined ? said : said.subarray(end);
      if (rest.length > 0) socket.unshift(rest);
      done(end !== undefined);
    };
    socket.on("readable", read);
    socket.once("close", closed);
  });
}
