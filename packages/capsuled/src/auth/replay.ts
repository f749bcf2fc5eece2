/**
 * Remembers the tokens that were used, so that each serves once. Bounded: when it is full, calls are refused rather than
 * tokens forgotten. Every use is also appended to a file in /run before it counts, so that a killed capsuled knows them
 * when it is back. Two generations; one is forgotten when none of its tokens can be valid any more. Files of later ones,
 * which a clock that ran ahead has left, stay until the clock is past them.
 */
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";

export interface ReplayOptions {
  /** Directory for the files; undefined keeps nothing. */
  readonly dir: string | undefined;
  /** Longest time that a token may be valid, leeway included, in seconds. */
  readonly lifetimeS: number;
  /** Most tokens remembered; default 200,000. */
  readonly limit?: number;
}

export class ReplayCache {
  readonly #options: ReplayOptions;
  readonly #limit: number;
  #current = new Set<string>();
  #previous = new Set<string>();
  #generation = 0;
  #file: number | undefined;

  constructor(options: ReplayOptions, now: Date) {
    this.#options = options;
    this.#limit = options.limit ?? 200_000;
    this.#generation = this.#generationOf(now);
    const { dir } = options;
    if (dir === undefined) return;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#previous = readIds(join(dir, fileName(this.#generation - 1)));
    this.#openFile();
  }

  /** Notes the use of a token. "full": it must be refused without being noted. */
  use(id: string, now: Date): "new" | "used" | "full" {
    this.#turn(now);
    if (this.#current.has(id) || this.#previous.has(id)) return "used";
    if (this.#current.size + this.#previous.size >= this.#limit) return "full";
    this.#current.add(id);
    if (this.#file !== undefined) writeSync(this.#file, `${id}\n`);
    return "new";
  }

  #generationOf(now: Date): number {
    return Math.floor(now.getTime() / 1000 / this.#options.lifetimeS);
  }

  #turn(now: Date): void {
    const generation = this.#generationOf(now);
    // A clock that was set back keeps what is known: it grows older on its own.
    if (generation <= this.#generation) return;
    this.#previous = generation === this.#generation + 1 ? this.#current : new Set();
    this.#current = new Set();
    this.#generation = generation;
    this.#openFile();
  }

  #openFile(): void {
    const { dir } = this.#options;
    if (dir === undefined) return;
    if (this.#file !== undefined) closeSync(this.#file);
    // A clock that was set back comes to the same times again: what was used then is known, and so is what was used a
    // moment later, which the tolerance for clocks may already take.
    for (const generation of [this.#generation, this.#generation + 1])
      for (const id of readIds(join(dir, fileName(generation)))) this.#current.add(id);
    this.#file = openSync(join(dir, fileName(this.#generation)), "a", 0o600);
    for (const name of readdirSync(dir)) {
      const generation = Number(/^used-([0-9]+)$/.exec(name)?.[1] ?? Number.NaN);
      if (generation < this.#generation - 1) unlinkSync(join(dir, name));
    }
  }
}

function fileName(generation: number): string {
  return `used-${generation}`;
}

/** A line that was cut by a kill is the use of a token whose call was never answered. */
function readIds(path: string): Set<string> {
  try {
    return new Set(
      readFileSync(path, "utf8")
        .split("\n")
        .filter((line) => line !== ""),
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Set();
    throw error;
  }
}
