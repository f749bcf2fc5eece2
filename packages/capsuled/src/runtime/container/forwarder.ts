/**
 * A reverse proxy on loopback for the time of one pull. containerd's transfer service speaks plain HTTP to loopback only,
 * and knows no mirrors and no authorities of one's own; here is all that it lacks. Redirects to other hosts (as registries
 * send them for blobs) pass through to containerd.
 */
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { rootCertificates } from "node:tls";
import { CapsuleError } from "../../errors.ts";

export interface Forwarder {
  /** Host and port, for an image reference. */
  readonly address: string;
  /** Why the registry could not be reached, if it could not: containerd knows only that the forwarder failed. */
  failure(): CapsuleError | undefined;
  close(): Promise<void>;
}

const connectTimeoutMs = 30_000;

export async function startForwarder(origin: URL, caCertificate: string): Promise<Forwarder> {
  let failure: CapsuleError | undefined;
  const server = createServer((incoming, outgoing) => {
    forward(origin, caCertificate, incoming, outgoing, (error) => {
      failure ??= new CapsuleError("unavailable", `${origin.host} cannot be reached: ${error.message}`, {
        cause: error,
        reason: "REGISTRY_UNAVAILABLE",
      });
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    failure: () => failure,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function forward(
  origin: URL,
  ca: string,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  onError: (error: Error) => void,
): void {
  const secure = origin.protocol === "https:";
  const prefix = origin.pathname.replace(/\/$/, "");
  const request = (secure ? httpsRequest : httpRequest)({
    hostname: origin.hostname.replace(/^\[|\]$/g, ""),
    port: origin.port === "" ? (secure ? 443 : 80) : origin.port,
    method: incoming.method,
    path: `${prefix}${incoming.url ?? "/"}`,
    headers: { ...incoming.headers, host: origin.host },
    timeout: connectTimeoutMs,
    ...(ca === "" ? {} : { ca: [...rootCertificates, ca] }),
  });
  request.on("timeout", () => request.destroy(new Error(`no answer within ${connectTimeoutMs / 1000} s`)));
  request.on("response", (response) => {
    outgoing.writeHead(response.statusCode ?? 502, response.headers);
    response.pipe(outgoing);
    response.on("error", () => outgoing.destroy());
  });
  request.on("error", (error) => {
    onError(error);
    if (!outgoing.headersSent) outgoing.writeHead(502);
    outgoing.end();
  });
  outgoing.on("close", () => request.destroy());
  incoming.pipe(request);
}
