/**
 * A reverse proxy on loopback for the time of one pull. The transfer service of containerd 1.7 knows neither mirrors nor
 * plain HTTP nor authorities of one's own; here is all that it lacks. It trusts the proxy by a certificate in a directory
 * that it is started with (SSL_CERT_DIR in init.json). Redirects to other hosts, as registries send them for blobs, pass
 * through to containerd.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer, request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { rootCertificates } from "node:tls";
import { CapsuleError } from "../../errors.ts";
import { makeCertificate } from "../../self-signed.ts";

export interface Forwarder {
  /** Host and port, for an image reference. */
  readonly address: string;
  /** Why the registry could not be reached, if it could not: containerd knows only that the forwarder failed. */
  failure(): CapsuleError | undefined;
  close(): Promise<void>;
}

const connectTimeoutMs = 30_000;
/** As in image/files/etc/capsule/init.json: containerd reads it once, at its first pull. */
const trustDir = "/run/capsule/registry-proxy/trusted";
const keyPath = "/run/capsule/registry-proxy/proxy.key";

interface ProxyIdentity {
  readonly key: string;
  readonly cert: string;
}

/** One for each boot, made before the first pull, kept for a capsuled that comes back: containerd keeps what it has read. */
export async function proxyIdentity(): Promise<ProxyIdentity> {
  const certificatePath = join(trustDir, "proxy.pem");
  try {
    return { key: await readFile(keyPath, "utf8"), cert: await readFile(certificatePath, "utf8") };
  } catch {
    const { keyPem, certificatePem } = await makeCertificate("capsule registry proxy", [
      { type: "ip", value: "127.0.0.1" },
    ]);
    await mkdir(trustDir, { recursive: true, mode: 0o700 });
    await writeFile(keyPath, keyPem, { mode: 0o600 });
    // Complete when it has its name: the directory may be read at any moment.
    await writeFile(`${keyPath}.new`, certificatePem);
    await rename(`${keyPath}.new`, certificatePath);
    return { key: keyPem, cert: certificatePem };
  }
}

export async function startForwarder(origin: URL, caCertificate: string): Promise<Forwarder> {
  let failure: CapsuleError | undefined;
  const server = createServer(await proxyIdentity(), (incoming, outgoing) => {
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
