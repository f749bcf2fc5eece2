/** Who answers at an address, read from the server itself over TLS: what multicast DNS says of it proves nothing. */
import { IdentityService } from "@capsule/api";
import { connect } from "../connection.ts";

/** What a server says of itself, and the fingerprint of the key that it proved to have. */
export interface Identified {
  /** HOST:PORT. */
  readonly endpoint: string;
  /** Of the server's certificate, lower-case hex. */
  readonly fingerprint: string;
  readonly capsuleId: string;
  readonly shortId: string;
  readonly hostname: string;
  readonly adopted: boolean;
  readonly version: string;
  readonly mode: string;
}

/** A capsule on the same network answers in milliseconds; this is for one that is busy. */
const timeoutMs = 3_000;
/** So many are asked at once. */
const mostAtOnce = 16;

/** Asks without a key: whoever stands behind an address that was found learns nothing of the operator. Throws CliError. */
export async function identify(endpoint: string): Promise<Identified> {
  const limits = { connectTimeoutMs: timeoutMs, callTimeoutMs: timeoutMs };
  const connection = await connect({ host: endpoint, key: undefined, fingerprint: undefined, ...limits });
  try {
    const { capsuleId, shortId, hostname, adopted, version, mode } = await connection
      .client(IdentityService)
      .getIdentity({});
    const { fingerprint } = connection;
    return { endpoint, fingerprint, capsuleId, shortId, hostname, adopted, version, mode };
  } finally {
    connection.close();
  }
}

/** Asks all of these, in any order; undefined for those that do not answer as a capsule does. */
export async function identifyAll(endpoints: readonly string[]): Promise<Map<string, Identified | undefined>> {
  const results = new Map<string, Identified | undefined>();
  const waiting = [...endpoints];
  const work = async (): Promise<void> => {
    for (let endpoint = waiting.shift(); endpoint !== undefined; endpoint = waiting.shift())
      results.set(endpoint, await identify(endpoint).catch(() => undefined));
  };
  await Promise.all(Array.from({ length: mostAtOnce }, work));
  return results;
}
