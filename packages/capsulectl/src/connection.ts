/** The connection to a capsule: TLS 1.3, the server known by its pinned fingerprint, a token for each call. */
import { createHash } from "node:crypto";
import { subscribe } from "node:diagnostics_channel";
import type { ClientHttp2Stream } from "node:http2";
import { type TLSSocket, connect as tlsConnect } from "node:tls";
import type { DescService } from "@bufbuild/protobuf";
import { isBulk } from "@capsule/api/bulk.ts";
import { bulkStreams } from "@capsule/api/bulk-client.ts";
import { keyId } from "@capsule/api/key.ts";
import { signToken, type TokenSubject, thumbprint } from "@capsule/api/token.ts";
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import type { ClientKey } from "./config.ts";
import { CliError, exitCode } from "./errors.ts";

const defaultConnectTimeoutMs = 10_000;
const defaultCallTimeoutMs = 60_000;
/**
 * A capsule that vanished from the network in the middle of a stream is noticed in the sum of the two. A ping waits behind
 * what is being sent, on a slow network for long; that one is on its way so soon costs nothing.
 */
const defaultPing = { intervalMs: 5_000, timeoutMs: 20_000 };
/** What a capsule may have sent and we not read: a small window stalls fast downloads. */
const windowBytes = 16 * 1024 * 1024;

// The session is the transport's own; its streams tell of it. Without this a whole connection has a window of 64 KiB.
const widened = new WeakSet<object>();
subscribe("http2.client.stream.created", (message) => {
  const { session } = (message as { readonly stream: ClientHttp2Stream }).stream;
  if (session === undefined || widened.has(session)) return;
  widened.add(session);
  // Each of its streams tells of it too. The transport listens no more when it has ended the session itself (a ping that
  // was not answered), and an error that nobody hears ends the program.
  session.on("error", () => undefined);
  const widen = (): void => session.setLocalWindowSize(windowBytes);
  // Ours has a socket that is open already; another session of this process may still be connecting, and has no window then.
  if (session.connecting) session.once("connect", widen);
  else widen();
});

export interface Connection {
  readonly host: string;
  /** Of the server's certificate, lower-case hex. */
  readonly fingerprint: string;
  client<T extends DescService>(service: T): Client<T>;
  /** From now on calls carry tokens for this capsule. */
  authenticate(capsuleId: string): void;
  close(): void;
}

export interface ConnectOptions {
  readonly host: string;
  readonly key: ClientKey | undefined;
  /** Undefined takes any server: only to look at its fingerprint. */
  readonly fingerprint: string | undefined;
  /** Until TLS stands. */
  readonly connectTimeoutMs?: number;
  /** How long a call that is no stream may take. */
  readonly callTimeoutMs?: number;
  /** Gives up a connection that is being made. */
  readonly signal?: AbortSignal;
  /** That tokens follow: where several capsules are called, each has its own. */
  readonly clock?: Clock;
  /** While a call is under way; in milliseconds. */
  readonly ping?: { readonly intervalMs: number; readonly timeoutMs: number };
}

/** Between the end of a connection and that of its calls, in milliseconds. */
const lostMs = 500;

/** The capsule is not at this address: nobody answers there, or another one. Nothing was asked of anybody. */
export class UnreachableError extends CliError {}

/** Connects and checks the server before a byte of a request is sent. Throws CliError. */
export async function connect({
  host,
  key,
  fingerprint: pinned,
  connectTimeoutMs = defaultConnectTimeoutMs,
  callTimeoutMs = defaultCallTimeoutMs,
  ping = defaultPing,
  signal: givenUp,
  clock = sharedClock,
}: ConnectOptions): Promise<Connection> {
  const socket = await openSocket(host, key, connectTimeoutMs, givenUp);
  const fingerprint = createHash("sha256").update(socket.getPeerCertificate(false).raw).digest("hex");
  if (pinned !== undefined && pinned !== fingerprint) {
    socket.destroy();
    throw new UnreachableError(
      `${host} is not the capsule that you adopted: its fingerprint is ${fingerprint}, and ${pinned} is pinned.\n` +
        "Either the capsule was installed anew, or somebody is in between. If you are sure, run `capsulectl context remove`\n" +
        "and adopt it again, comparing the fingerprint with the one on its console.",
      exitCode.refused,
    );
  }
  // The socket is open, and this name is looked up nowhere. Of an IPv6 address Node's http2 makes no valid one: it leaves the
  // brackets out; and the name of a link ("%eth0") can be in no URL at all.
  const url = "https://capsule.internal";
  let used = false;
  const pings = { pingIntervalMs: ping.intervalMs, pingTimeoutMs: ping.timeoutMs };
  const sessionManager = new Http2SessionManager(url, pings, {
    createConnection: () => {
      if (used) throw new CliError(`the connection to ${host} was lost`);
      used = true;
      return socket;
    },
    settings: { initialWindowSize: 4 * 1024 * 1024 },
  } as ConstructorParameters<typeof Http2SessionManager>[2]);
  let subject: TokenSubject | undefined;
  const withToken: Interceptor = (next) => async (request) => {
    if (subject !== undefined) request.header.set("authorization", `Bearer ${signToken(subject, clock.now())}`);
    return await next(request);
  };
  const base = createGrpcTransport({
    baseUrl: url,
    sessionManager,
    interceptors: [withToken],
    acceptCompression: [],
  });
  const bulk = bulkStreams({ baseUrl: url, sessionManager, interceptors: [withToken] });
  // A request that is under way when the connection is reset does not always hear of it (seen with connect-node 2.2): it
  // is told. The delay is for an answer that came right before.
  const lost = new AbortController();
  let isClosed = false;
  // The library lets go of the socket when a stream closes, and Node ends when nothing else is waited for: before it has
  // heard that the connection was reset under another call (seen with connect-node 2.2: exit code 0, nothing done).
  const alive = setInterval(() => undefined, 60_000);
  const end = (): void => {
    if (!isClosed) setTimeout(() => lost.abort(new ConnectError("the connection was lost", Code.Unavailable)), lostMs);
  };
  socket.once("end", end);
  socket.once("close", end);
  const orLost = (signal: AbortSignal | undefined): AbortSignal =>
    signal === undefined ? lost.signal : AbortSignal.any([signal, lost.signal]);
  const transport: Transport = {
    unary: (method, signal, timeoutMs, ...rest) =>
      base.unary(method, orLost(signal), timeoutMs ?? callTimeoutMs, ...rest),
    stream: (method, signal, ...rest) =>
      isBulk(method) ? bulk(method, orLost(signal), ...rest) : base.stream(method, orLost(signal), ...rest),
  };
  return {
    host,
    fingerprint,
    client: (service) => createClient(service, transport),
    authenticate: (capsuleId) => {
      if (key === undefined)
        throw new CliError("You have no key yet: `capsulectl adopt HOST` makes one.", exitCode.refused);
      const { privateKey } = key;
      subject = { privateKey, keyId: keyId(privateKey), thumbprint: thumbprint(key.certificateDer), capsuleId };
    },
    close: () => {
      isClosed = true;
      clearInterval(alive);
      sessionManager.abort();
      socket.destroy();
    },
  };
}

/** What a capsule takes for the time: our clock is wrong, or its. */
export class Clock {
  #offsetMs = 0;

  follow(time: Date): void {
    this.#offsetMs = time.getTime() - Date.now();
  }

  now(): Date {
    return new Date(Date.now() + this.#offsetMs);
  }
}

const sharedClock = new Clock();

/** Tokens follow the capsule's clock from here on. */
export function useCapsuleTime(time: Date): void {
  sharedClock.follow(time);
}

async function openSocket(
  host: string,
  key: ClientKey | undefined,
  timeoutMs: number,
  givenUp: AbortSignal | undefined,
): Promise<TLSSocket> {
  const at = host.lastIndexOf(":");
  const name = host.slice(0, at).replace(/^\[|\]$/g, "");
  const socket = tlsConnect({
    host: name,
    port: Number(host.slice(at + 1)),
    minVersion: "TLSv1.3",
    ALPNProtocols: ["h2"],
    // No authority signs it: its fingerprint is what is checked.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    ...(key === undefined ? {} : { key: key.keyPem, cert: key.certificatePem }),
  });
  return await new Promise((resolve, reject) => {
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
    const giveUp = (): void => void socket.destroy(new Error("it was given up"));
    const settled = (): void => {
      clearTimeout(timer);
      givenUp?.removeEventListener("abort", giveUp);
    };
    if (givenUp?.aborted === true) giveUp();
    givenUp?.addEventListener("abort", giveUp);
    socket.once("secureConnect", () => {
      settled();
      socket.setNoDelay(true);
      resolve(socket);
    });
    // It stays when the socket is handed on: one that nobody hears would end the program.
    socket.on("error", (error: NodeJS.ErrnoException) => {
      settled();
      const hint = error.code === "ECONNREFUSED" ? ". Does the capsule run?" : "";
      reject(
        new UnreachableError(`${host} cannot be reached: ${error.message}${hint}`, exitCode.failed, { cause: error }),
      );
    });
  });
}
