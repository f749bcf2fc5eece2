/**
 * The agent in a guest: gRPC on one connection over the guest's vsock, of which the capsule's side is a Unix socket. Who
 * connects says `CONNECT PORT` and is answered `OK …` (Firecracker's form, docs/vsock.md there; vhost-device-vsock has the
 * same). What comes from the guest is a stranger's: nothing of it is trusted.
 */
import { connect, type Socket } from "node:net";
import { bulkStreams } from "@capsule/api/bulk-client.ts";
import { GuestAgent } from "@capsule/api/guest.ts";
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { agentPort } from "./layout.ts";

export interface Agent {
  readonly client: Client<typeof GuestAgent>;
  /** The same for streams of bytes, whose messages may come cut differently (bulk-client.ts). */
  readonly bulk: Client<typeof GuestAgent>;
  /** Resolves when the connection is over: the guest is gone, or its agent. */
  readonly closed: Promise<void>;
  close(): void;
}

/** How long the guest may take to accept, once its device is there, in milliseconds. */
const acceptMs = 2_000;
const maxAnswerBytes = 64;

/** Connects to the agent. Undefined when nobody answers (yet). */
export async function dialAgent(socketPath: string): Promise<Agent | undefined> {
  const socket = await handshake(socketPath);
  if (socket === undefined) return undefined;
  const baseUrl = "http://guest.local";
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  const manager = new Http2SessionManager(baseUrl, {}, {
    // One connection: a second one is another agent's, after `closed`.
    createConnection: () => socket,
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
  const socket = connect(path);
  socket.on("error", () => undefined);
  const answered = await new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => resolve(false), acceptMs);
    let said = Buffer.alloc(0);
    socket.once("connect", () => socket.write(`CONNECT ${agentPort}\n`));
    const read = (): void => {
      const data = socket.read() as Buffer | null;
      if (data === null) return;
      said = Buffer.concat([said, data]);
      const end = said.indexOf(0x0a);
      if (end < 0 && said.length <= maxAnswerBytes) return;
      clearTimeout(timer);
      socket.off("readable", read);
      // The guest may have begun to speak already.
      if (said.length > end + 1) socket.unshift(said.subarray(end + 1));
      resolve(end >= 0 && said.toString("latin1", 0, 3) === "OK ");
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
