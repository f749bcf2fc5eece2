import { readConfig } from "../config.ts";
import type { Sighting } from "../discovery/cache.ts";
import { type Found, foundOf, keyOf } from "../discovery/found.ts";
import { type Identified, identifyAll } from "../discovery/identify.ts";
import { timerOption } from "../duration.ts";
import { CliError } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { type Column, clean, note, printJson, printTable, say, sayJson } from "../output.ts";

const defaultTimeoutMs = 3_000;
/** Packets of the same change, of several links, come within this; in milliseconds. */
const gatherMs = 150;

const columns: readonly Column<Found>[] = [
  { title: "NAME", value: ({ name }) => name },
  { title: "ID", value: ({ shortId }) => shortId },
  { title: "ADDRESS", value: ({ addresses }) => addresses[0] ?? "" },
  { title: "OTHER ADDRESSES", value: ({ addresses }) => addresses.slice(1).join(", "), wide: true },
  { title: "ADOPTED", value: ({ adopted }) => (adopted ? "yes" : "no") },
  { title: "VERSION", value: ({ version }) => version },
  { title: "MODE", value: ({ mode }) => mode },
  { title: "CONTEXT", value: contextText },
  { title: "FINGERPRINT", value: ({ fingerprint }) => (fingerprint === "" ? "(no answer)" : fingerprint) },
];

export async function discover(
  { format }: Globals,
  { watch = false, timeout }: { watch?: boolean; timeout?: string },
): Promise<void> {
  const timeoutMs = timeout === undefined ? (watch ? undefined : defaultTimeoutMs) : timerOption("--timeout", timeout);
  if (watch) return await watchCapsules(format, timeoutMs);
  const sightings = new Map<string, Sighting>();
  const identities = new Identities();
  await look(timeoutMs, (now) => {
    // Whoever went away in these seconds is shown too: it was there.
    for (const one of now) sightings.set(`${one.link} ${one.instance}`, one);
    identities.learn(now);
  });
  const all = [...sightings.values()];
  const found = foundOf(all, await identities.of(all), (await readConfig()).contexts);
  found.forEach(warn);
  if (format === "json" || format === "yaml") return await printJson(format, { capsules: found });
  printTable(found, columns, format === "wide");
  if (found.length === 0)
    note("No capsule was heard. They are heard on the same network only; one that is elsewhere: capsulectl adopt HOST");
}

/** Browses until the time is over, `over` comes, or a signal ends the program. Throws CliError. */
async function look(
  timeoutMs: number | undefined,
  onChange: (now: readonly Sighting[]) => void,
  over = new AbortController(),
): Promise<void> {
  const { browse } = await import("../discovery/browse.ts");
  const timer = timeoutMs === undefined ? undefined : setTimeout(() => over.abort(), timeoutMs);
  const onFailed = (link: string, error: Error): void =>
    note(`Cannot look on ${link}: ${error.message}. Capsules that are there are not shown.`);
  try {
    await browse({ signal: over.signal, onChange, onFailed });
  } catch (error) {
    throw new CliError(`Cannot look for capsules: ${error instanceof Error ? error.message : String(error)}.`);
  } finally {
    clearTimeout(timer);
  }
}

/** Who answers where, asked once for each address and each state that is announced of it. */
class Identities {
  readonly #asked = new Map<string, Promise<Identified | undefined>>();

  /** Asks those that were not asked before. */
  learn(sightings: readonly Sighting[]): void {
    const fresh = sightings.flatMap((one) =>
      one.endpoints.filter((endpoint) => !this.#asked.has(keyFor(one, endpoint))),
    );
    if (fresh.length === 0) return;
    const answers = identifyAll([...new Set(fresh)]);
    for (const one of sightings)
      for (const endpoint of one.endpoints)
        if (fresh.includes(endpoint))
          this.#asked.set(
            keyFor(one, endpoint),
            answers.then((all) => all.get(endpoint)),
          );
  }

  /** The answers of these, by address. */
  async of(sightings: readonly Sighting[]): Promise<Map<string, Identified | undefined>> {
    this.learn(sightings);
    const answers = new Map<string, Identified | undefined>();
    for (const one of sightings)
      for (const endpoint of one.endpoints) answers.set(endpoint, await this.#asked.get(keyFor(one, endpoint)));
    return answers;
  }

  /** Asks again what did not answer, or may be another one now. */
  forget(sightings: readonly Sighting[]): void {
    for (const one of sightings) for (const endpoint of one.endpoints) this.#asked.delete(keyFor(one, endpoint));
  }
}

function keyFor({ instance, announced }: Sighting, endpoint: string): string {
  return `${endpoint} ${instance} ${JSON.stringify(announced)}`;
}

type Happening = "appeared" | "changed" | "gone";

async function watchCapsules(format: Globals["format"], timeoutMs: number | undefined): Promise<void> {
  const shown = new Map<string, Found>();
  const identities = new Identities();
  const lines = new EventLines(format);
  let latest: readonly Sighting[] = [];
  let running: Promise<void> | undefined;
  let isStale = false;
  let failure: unknown;
  const over = new AbortController();
  const show = async (): Promise<void> => {
    while (isStale) {
      await new Promise((resolve) => setTimeout(resolve, gatherMs));
      isStale = false;
      const sightings = latest;
      const answers = await identities.of(sightings);
      const now = new Map(foundOf(sightings, answers, (await readConfig()).contexts).map((one) => [keyOf(one), one]));
      identities.forget(sightings.filter(({ endpoints }) => endpoints.every((one) => answers.get(one) === undefined)));
      for (const [key, one] of shown) if (!now.has(key)) await lines.tell("gone", one);
      for (const [key, one] of now) {
        const before = shown.get(key);
        if (before === undefined) warn(one);
        if (JSON.stringify(before) !== JSON.stringify(one))
          await lines.tell(before === undefined ? "appeared" : "changed", one);
      }
      shown.clear();
      for (const [key, one] of now) shown.set(key, one);
    }
    running = undefined;
  };
  const change = (now: readonly Sighting[]): void => {
    latest = now;
    isStale = true;
    running ??= show().catch((error: unknown) => {
      failure = error;
      over.abort();
    });
  };
  await look(timeoutMs, change, over);
  await running;
  if (failure !== undefined) throw failure;
}

/** Of columns whose values are not known yet, in characters. */
const widths: Readonly<Record<string, number>> = {
  TIME: 20,
  EVENT: 8,
  NAME: 20,
  ID: 6,
  ADDRESS: 26,
  "OTHER ADDRESSES": 34,
  VERSION: 10,
  MODE: 9,
  CONTEXT: 12,
};

/** Each event on a line. */
class EventLines {
  readonly #format: Globals["format"];
  #isFirst = true;

  constructor(format: Globals["format"]) {
    this.#format = format;
  }

  async tell(event: Happening, capsule: Found): Promise<void> {
    const time = new Date().toISOString();
    if (this.#format === "json") return sayJson({ time, event, capsule });
    if (this.#format === "yaml") {
      process.stdout.write("---\n");
      return await printJson("yaml", { time, event, capsule });
    }
    const isWide = this.#format === "wide";
    const shown = columns.filter((column) => isWide || column.wide !== true);
    const titles = ["TIME", "EVENT", ...shown.map(({ title }) => title)];
    const line = (cells: readonly string[]): string =>
      cells
        .map((cell, i) => clean(cell).padEnd(Math.max(widths[titles[i] ?? ""] ?? 0, titles[i]?.length ?? 0)))
        .join("  ")
        .trimEnd();
    if (this.#isFirst) say(line(titles));
    this.#isFirst = false;
    say(line([`${time.slice(0, 19)}Z`, event, ...shown.map(({ value }) => value(capsule))]));
  }
}

function contextText({ context, impersonates }: Found): string {
  return impersonates === "" ? context : `not ${impersonates}!`;
}

function warn({ impersonates, shortId, addresses }: Found): void {
  if (impersonates === "") return;
  note(
    `Warning: at ${addresses[0]} answers a capsule that says it is ${shortId}, your context "${impersonates}", and has another key. Either it was installed anew, or somebody pretends to be it.`,
  );
}
