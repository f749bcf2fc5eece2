import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { TLSSocket } from "node:tls";
import { createContextKey } from "@connectrpc/connect";
import { type PeerCertificate, peerCertificateOf } from "../auth/gate.ts";

/** The other end of the connection that a call came by. */
export interface Peer {
  readonly certificate: PeerCertificate | undefined;
  readonly address: string;
}

export const peerKey = createContextKey<Peer>(
  { certificate: undefined, address: "" },
  { description: "the other end" },
);

const known = new WeakMap<object, Peer>();

/** Of the connection of a request; looked at once for each connection. */
export function peerOf(request: IncomingMessage | Http2ServerRequest): Peer {
  const session = "stream" in request ? request.stream?.session : undefined;
  const socket = (session?.socket ?? request.socket) as TLSSocket;
  return peerOfSocket(session === undefined ? socket : (session.socket as TLSSocket), session);
}

/** Of a TLS connection; `key` is what it is remembered by. */
export function peerOfSocket(socket: TLSSocket, key: object = socket): Peer {
  let peer = known.get(key);
  if (peer === undefined) {
    const certificate = socket.getPeerX509Certificate?.();
    peer = {
      certificate:
        certificate === undefined
          ? undefined
          : peerCertificateOf(certificate.raw, certificate.publicKey.export({ format: "der", type: "spki" })),
      address: socket.remoteAddress ?? "",
    };
    known.set(key, peer);
  }
  return peer;
}
