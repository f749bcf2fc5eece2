/** The API's port: TLS 1.3 only; gRPC, gRPC-Web and Connect by HTTP/2 and HTTP/1.1. */
import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { type ConnectRouter, createContextValues, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Logger } from "pino";
import type { Gate } from "../auth/gate.ts";
import type { ServerIdentity } from "../auth/identity.ts";
import type { Store } from "../store/store.ts";
import { bulkHandlers } from "./bulk.ts";
import { auditInterceptor, errorsInterceptor, gateInterceptor } from "./interceptors.ts";
import { peerKey, peerOf, peerOfSocket } from "./peer.ts";

export interface ServerOptions {
  /** 0 takes a free one. */
  readonly port: number;
  /** Default "::", which takes IPv4 too. */
  readonly address?: string;
  readonly identity: ServerIdentity;
  readonly gate: Gate;
  readonly store: Store;
  readonly log: Logger;
  readonly routes: (router: ConnectRouter) => void;
  /** Before the gate: what is refused to everybody. */
  readonly guards?: readonly Interceptor[];
}

export interface Server {
  readonly port: number;
  /** Takes no new calls and ends when the open ones have, or after `graceMs`. */
  stop(graceMs: number): Promise<void>;
}

/** A manifest of thousands of workloads is some MB; chunks of streams are far smaller. */
const maxMessageBytes = 16 * 1024 * 1024;
/** What a client may have sent and we not read, of one call and of one connection: small ones stall fast uploads. */
const streamWindowBytes = 4 * 1024 * 1024;
const sessionWindowBytes = 16 * 1024 * 1024;
const maxConnections = 1_000;
/** Connections without an enrolled key: how many at once, for how long, and the size of what they may say. */
const maxStrangers = 200;
const strangerMs = 30_000;
const maxStrangerMessageBytes = 16 * 1024;
const handshakeTimeoutMs = 10_000;

export async function startServer(options: ServerOptions): Promise<Server> {
  const { identity, gate, store, log } = options;
  const adapterOptions = (readMaxBytes: number) => ({
    routes: options.routes,
    interceptors: [
      errorsInterceptor(log),
      ...(options.guards ?? []),
      gateInterceptor(gate, store, log),
      auditInterceptor(gate, store, log),
    ],
    contextValues: (request: Parameters<typeof peerOf>[0]) => createContextValues().set(peerKey, peerOf(request)),
    readMaxBytes,
    // Logs, archives and images: compressing them here would cost far more than the network does.
    acceptCompression: [],
  });
  const forKnown = connectNodeAdapter(adapterOptions(maxMessageBytes));
  const bulkForKnown = bulkHandlers(adapterOptions(maxMessageBytes));
  // A message is read before the gate sees it: a stranger's must be small.
  const forStrangers = connectNodeAdapter(adapterOptions(maxStrangerMessageBytes));
  const isKnown = (socket: Parameters<typeof peerOfSocket>[0]): boolean =>
    gate.keyOf(peerOfSocket(socket).certificate) !== undefined;
  const server = createSecureServer(
    {
      key: identity.keyPem,
      cert: identity.certificatePem,
      minVersion: "TLSv1.3",
      allowHTTP1: true,
      // Clients have certificates of their own making: the gate knows their keys, no authority does.
      requestCert: true,
      rejectUnauthorized: false,
      handshakeTimeout: handshakeTimeoutMs,
      // Windows for fast streams; streams per connection for a client that watches much.
      settings: { maxConcurrentStreams: 250, initialWindowSize: streamWindowBytes },
    },
    (request, response) => {
      try {
        const known = gate.keyOf(peerOf(request).certificate) !== undefined;
        const bulk = known ? bulkForKnown(request) : undefined;
        if (bulk !== undefined) bulk(request, response);
        else (known ? forKnown : forStrangers)(request, response);
      } catch (error) {
        // The library makes a URL of what the request names as host, and throws when it is none, such as an IPv6 address
        // without brackets (seen with connect-node 2.2). Nobody else would catch it, and capsuled would end.
        log.debug({ err: error }, "a request could not be understood");
        response.writeHead(400).end();
      }
    },
  );
  server.maxConnections = maxConnections;
  server.setTimeout(0);
  server.on("tlsClientError", (error: Error) => log.debug({ err: error }, "TLS handshake failed"));
  server.on("sessionError", (error: Error) => log.debug({ err: error }, "HTTP/2 session failed"));
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  server.on("session", (session: ServerHttp2Session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    session.setLocalWindowSize(sessionWindowBytes);
  });
  let strangers = 0;
  server.on("secureConnection", (socket: TLSSocket) => {
    sockets.add(socket);
    // Else each flow-control frame waits for the answer to the one before.
    socket.setNoDelay(true);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => undefined);
    if (isKnown(socket)) return;
    // Strangers need one short call. They must not keep the port from those who are known.
    if (strangers >= maxStrangers) {
      socket.destroy();
      return;
    }
    strangers++;
    const patience = setTimeout(() => socket.destroy(), strangerMs);
    socket.on("close", () => {
      clearTimeout(patience);
      strangers--;
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port: options.port, host: options.address ?? "::" }, resolve);
  });
  server.on("error", (error) => log.error({ err: error }, "the API's port failed"));
  return {
    port: (server.address() as AddressInfo).port,
    stop: (graceMs) => stop(server, sessions, sockets, graceMs),
  };
}

async function stop(
  server: Http2SecureServer,
  sessions: ReadonlySet<ServerHttp2Session>,
  sockets: ReadonlySet<Socket>,
  graceMs: number,
): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const session of sessions) session.close();
  const patience = setTimeout(() => {
    for (const session of sessions) session.destroy();
    for (const socket of sockets) socket.destroy();
  }, graceMs);
  await closed;
  clearTimeout(patience);
}
