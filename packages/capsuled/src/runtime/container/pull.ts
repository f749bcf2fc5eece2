/**
 * Pull through containerd's transfer service. What that service of containerd 1.7 cannot do itself — mirrors, plain HTTP,
 * an authority of one's own — goes through a forwarder on loopback (forwarder.ts).
 */
import { CapsuleError } from "../../errors.ts";
import { ImageStoreSchema } from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/imagestore_pb.js";
import {
  AuthRequestSchema,
  AuthResponseSchema,
  AuthType,
  OCIRegistrySchema,
} from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/registry_pb.js";
import type { PullProgress, RegistryAccess } from "../images.ts";
import { anyOf, type Containerd, translated, unpack } from "./client.ts";
import { startForwarder } from "./forwarder.ts";
import { architecture } from "./image-config.ts";
import { PullMeter } from "./pull-meter.ts";
import { pathOf, registryOf } from "./reference.ts";
import { unsettledLabels } from "./settle.ts";
import { openStream, type Stream, unpackHere, watchProgress } from "./transfer.ts";

const LOOPBACK = /^(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?$/;

/** Pulls and unpacks `reference`; tries each mirror before the registry itself. */
export async function pullImage(
  client: Containerd,
  reference: string,
  access: RegistryAccess | undefined,
  onProgress: (progress: PullProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const failures: string[] = [];
  for (const mirror of access?.mirrors ?? []) {
    try {
      await pullBy(client, reference, new URL(mirror), access, onProgress, signal);
      return;
    } catch (error) {
      signal.throwIfAborted();
      failures.push(`mirror ${mirror}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const host = registryOf(reference);
  const ownAuthority = access !== undefined && access.caCertificate !== "";
  // As docker does: what is on this machine needs no TLS.
  const plain = access?.plainHttp === true || (LOOPBACK.test(host) && !ownAuthority);
  const origin = plain || ownAuthority ? new URL(`${plain ? "http" : "https"}://${host}`) : undefined;
  try {
    await pullBy(client, reference, origin, access, onProgress, signal);
  } catch (error) {
    signal.throwIfAborted();
    const known = pullError(error, reference);
    if (failures.length === 0) throw known;
    const { kind, reason = "PULL_FAILED", message } = known;
    throw new CapsuleError(kind, `${message} (before it ${failures.join("; ")})`, { cause: error, reason });
  }
}

/** One try. `origin`: where to fetch it, when not simply from its registry. */
async function pullBy(
  client: Containerd,
  reference: string,
  origin: URL | undefined,
  access: RegistryAccess | undefined,
  onProgress: (progress: PullProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const ended = new AbortController();
  const both = AbortSignal.any([signal, ended.signal]);
  const forwarder = origin === undefined ? undefined : await startForwarder(origin, access?.caCertificate ?? "");
  try {
    const [auth, progress] = await Promise.all([openStream(client, both), openStream(client, both)]);
    void answerAuth(auth, access);
    const meter = new PullMeter();
    void watchProgress(progress, (update) => onProgress(meter.add(update)));
    const from = forwarder === undefined ? reference : `${forwarder.address}/${pathOf(reference)}`;
    await client.transfer.transfer(
      {
        source: anyOf(OCIRegistrySchema, { reference: from, resolver: { authStream: auth.id } }),
        destination: anyOf(ImageStoreSchema, {
          name: reference,
          labels: unsettledLabels,
          platforms: [{ os: "linux", architecture }],
          unpacks: [unpackHere],
        }),
        options: { progressStream: progress.id },
      },
      { signal: both },
    );
  } catch (error) {
    // containerd saw only that the forwarder failed; the forwarder knows why.
    throw forwarder?.failure() ?? error;
  } finally {
    ended.abort();
    await forwarder?.close();
  }
}

/** containerd asks for credentials when the registry wants some. */
async function answerAuth(stream: Stream, access: RegistryAccess | undefined): Promise<void> {
  try {
    for await (const any of stream.received) {
      if (unpack(any, AuthRequestSchema) === undefined) continue;
      const known = access !== undefined && access.username !== "";
      stream.send(
        anyOf(
          AuthResponseSchema,
          known
            ? { authType: AuthType.CREDENTIALS, username: access.username, secret: access.password }
            : { authType: AuthType.NONE },
        ),
      );
    }
  } catch {
    // Ends with the transfer.
  }
}

/** The registry's own reason is in the text; its HTTP status decides the kind. */
function pullError(error: unknown, reference: string): CapsuleError {
  const known = translated(error, reference);
  const text = known.message;
  const hint = "set credentials by `capsulectl registry set`";
  if (/not found|\b404\b/i.test(text)) return new CapsuleError("notFound", text, { cause: error, reason: "NO_IMAGE" });
  if (/\b(401|403)\b|unauthorized|authorization failed|access denied/i.test(text)) {
    return new CapsuleError("denied", `${text}; ${hint}`, { cause: error, reason: "REGISTRY_DENIED" });
  }
  if (/dial tcp|no such host|connection refused|timeout|i\/o|EOF|\b5\d\d\b|TLS|x509/i.test(text)) {
    return new CapsuleError("unavailable", text, { cause: error, reason: "REGISTRY_UNAVAILABLE" });
  }
  return known;
}
