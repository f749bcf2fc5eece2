/** Finds one capsule on the network: the one of a context that has moved, or one by its short id. */
import type { Context } from "../config.ts";
import { CliError, exitCode } from "../errors.ts";
import { byEase, type Sighting } from "./cache.ts";
import { type Identified, identify } from "./identify.ts";

/** Announcements come within a tenth of a second of the question, which is repeated once. In milliseconds. */
export const findMs = 2_500;

/** Addresses of the same capsule answer in any order: after the first the others have so long, in milliseconds. */
const graceMs = 150;

/**
 * Where the capsule of a context answers now: an address whose server has the same id **and** proves to have the pinned key.
 * Undefined when there is none within `findMs`, or this machine has no network.
 */
export async function findMoved({ capsuleId, fingerprint }: Context): Promise<Identified | undefined> {
  const [found] = await find(
    ({ announced }) => announced.capsuleId === capsuleId,
    (one) => one.capsuleId === capsuleId && one.fingerprint === fingerprint,
    { stopsAtFirst: true },
  ).catch(() => []);
  return found;
}

/**
 * HOST:PORT of the capsule with this short id. Who it is is the caller's to check. Throws CliError when there is none, or
 * two of the same.
 */
export async function findByShortId(shortId: string): Promise<string> {
  const found = await find(
    ({ announced }) => announced.shortId === shortId,
    (one) => one.shortId === shortId,
    // The first to answer may be another one of the same id.
    { stopsAtFirst: false },
  );
  const [first] = found;
  if (first === undefined) {
    throw new CliError(
      `No capsule with the short id ${shortId} answers on the networks of this machine. \`capsulectl discover\` shows those that do; if it is elsewhere, give its address.`,
      exitCode.notFound,
    );
  }
  const other = found.find(({ fingerprint }) => fingerprint !== first.fingerprint);
  if (other === undefined) return first.endpoint;
  throw new CliError(
    `Two capsules with different keys say that they are ${shortId}, at ${first.endpoint} and ${other.endpoint}. Compare their fingerprints (\`capsulectl discover\`) with the one on the console, and give the address.`,
    exitCode.conflict,
  );
}

/** Those that are right, of what looks right as it is announced; the address that is easiest to write first. Throws CliError. */
async function find(
  looksRight: (sighting: Sighting) => boolean,
  isRight: (one: Identified) => boolean,
  { stopsAtFirst }: { readonly stopsAtFirst: boolean },
): Promise<Identified[]> {
  const { browse } = await import("./browse.ts");
  const over = new AbortController();
  const timers = [setTimeout(() => over.abort(), findMs)];
  const tried = new Map<string, Promise<void>>();
  const right: Identified[] = [];
  const attempt = async (endpoint: string): Promise<void> => {
    const one = await identify(endpoint).catch(() => undefined);
    if (one === undefined || !isRight(one)) return;
    right.push(one);
    if (stopsAtFirst && right.length === 1) timers.push(setTimeout(() => over.abort(), graceMs));
  };
  try {
    await browse({
      signal: over.signal,
      onChange: (sightings) => {
        for (const endpoint of sightings.filter(looksRight).flatMap(({ endpoints }) => endpoints))
          if (!tried.has(endpoint)) tried.set(endpoint, attempt(endpoint));
      },
      // One link that cannot be used is no reason not to look on the others.
      onFailed: () => undefined,
    });
    // What was heard late is waited for, if nothing else was found.
    if (right.length === 0) await Promise.all(tried.values());
    return right.sort((a, b) => byEase(a.endpoint, b.endpoint));
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), exitCode.failed, { cause: error });
  } finally {
    for (const timer of timers) clearTimeout(timer);
  }
}
