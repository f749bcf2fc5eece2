/**
 * The agent in a guest: gRPC on one connection, over a virtio serial port of which the capsule's side is a Unix socket. The
 * port has one caller at a time, and what an earlier one has left may still come: who connects says `CONNECT NONCE`, and
 * what follows `OK NONCE` is for him (guest.proto). What comes from the guest is a stranger's: nothing of it is trusted.
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

/** Connects to the agent. Undefined when nobody answers (yet). */
export async function dialAgent(socketPath: string): Promise<Agent | undefined> {
  const socket = await handshake(socketPath);
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

async function handshake(path: string): Promise<Socket | undefined> {
  const nonce = randomBytes(16).toString("hex");
  const answer = Buffer.from(`OK ${nonce}\n`);
  const socket = connect(path);
  socket.on("error", () => undefined);
  const answered = await new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => resolve(false), answerMs);
    let said = Buffer.alloc(0);
    socket.once("connect", () => socket.write(`CONNECT ${nonce}\n`));
    const read = (): void => {
      const data = socket.read() as Buffer | null;
      if (data === null) return;
      said = Buffer.concat([said, data]);
      const found = said.indexOf(answer);
      if (found < 0) {
        said = said.subarray(Math.max(0, said.length - answer.length));
        return;
      }
      clearTimeout(timer);
      socket.off("readable", read);
      // The guest may have begun to speak already.
      const rest = said.subarray(found + answer.length);
      if (rest.length > 0) socket.unshift(rest);
      resolve(true);
    };
    socket.on("readable", read);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(false);
    });
  });
  if (answered && !socket.destroyed) return socket;
  socket.destroy();
  return undefined;
}
