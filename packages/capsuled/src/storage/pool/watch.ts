/**
 * How full the pools are: told in steps as events and in `capsule info`, before a pool is full. And how much they have
 * promised: volumes take what they hold, and together they may be larger than their pool, up to a ratio.
 */
import { EventType } from "@capsule/api";
import type { Logger } from "pino";
import { CapsuleError, messageOf } from "../../errors.ts";
import type { Store } from "../../store/store.ts";
import { wholeExtents } from "../layout.ts";
import type { PoolUsage } from "./backend.ts";
import { levelOf } from "./level.ts";
import type { Pool, Pools } from "./pools.ts";

const everyMs = 30_000;
/** How old an answer may be, in milliseconds. */
const freshMs = 1_000;
const defaultOvercommitPercent = 300;
const GiB = 1024 ** 3;

export interface PoolFacts {
  readonly name: string;
  readonly backend: string;
  /** Undefined when it cannot be asked. */
  readonly usage: PoolUsage | undefined;
  readonly promisedBytes: number;
  readonly overcommitPercent: number;
  /** What is the matter, for people; empty when nothing is. */
  readonly message: string;
}

export interface PoolWatchOptions {
  readonly store: Store;
  readonly pools: Pools;
  readonly log: Logger;
}

export class PoolWatch {
  readonly #options: PoolWatchOptions;
  readonly #levels = new Map<string, number>();
  readonly #last = new Map<string, PoolUsage>();
  #reading: { readonly at: number; readonly facts: Promise<PoolFacts[]> } | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: PoolWatchOptions) {
    this.#options = options;
  }

  /** Looks once, and from time to time. Never throws. */
  async start(): Promise<void> {
    await this.read();
    this.#timer = setInterval(() => void this.read(), everyMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** What there is of every pool now. Never throws: a pool that cannot be asked says so in its message. */
  async read(): Promise<PoolFacts[]> {
    const now = performance.now();
    if (this.#reading === undefined || now - this.#reading.at > freshMs)
      this.#reading = { at: now, facts: Promise.all(this.#options.pools.list().map((pool) => this.#factsOf(pool))) };
    const asked = await this.#reading.facts;
    // What the store knows is as of now.
    return asked.map((facts) => ({
      ...facts,
      promisedBytes: this.#promised(facts.name),
      overcommitPercent: this.#overcommit(facts.name),
    }));
  }

  /** Throws `exhausted` when a pool must not promise so many bytes more. */
  refuseOvercommit(pool: string, moreBytes: number): void {
    const usage = this.#last.get(pool);
    if (usage === undefined) return;
    const percent = this.#overcommit(pool);
    const limit = (usage.sizeBytes * percent) / 100;
    const promised = this.#promised(pool);
    if (promised + wholeExtents(moreBytes) <= limit) return;
    throw new CapsuleError(
      "exhausted",
      `Pool "${pool}" has ${gib(usage.sizeBytes)} and has promised ${gib(promised)} to volumes; with ${gib(moreBytes)} more it ` +
        `would be above ${percent} %. Make it smaller, delete volumes, or let it promise more: \`capsulectl pool set ${pool} --overcommit PERCENT\`.`,
      { reason: "POOL_OVERCOMMITTED", metadata: { pool } },
    );
  }

  /** Durable. Throws `notFound` and `invalid`. */
  setOvercommit(pool: string, percent: number): void {
    const { name } = this.#options.pools.get(pool);
    if (percent < 10 || percent > 100_000) {
      const description = `${percent} % is not possible: 10 to 100000`;
      throw new CapsuleError("invalid", `overcommitPercent: ${description}`, {
        violations: [{ path: "overcommitPercent", description }],
      });
    }
    this.#options.store.meta.set(metaKey(name), String(percent));
    this.#reading = undefined;
  }

  async #factsOf(pool: Pool): Promise<PoolFacts> {
    const { name, kind: backend } = pool;
    const known = { name, backend, promisedBytes: this.#promised(name), overcommitPercent: this.#overcommit(name) };
    try {
      const usage = await pool.usage();
      this.#last.set(name, usage);
      return { ...known, usage, message: this.#tell(name, usage) };
    } catch (error) {
      this.#options.log.warn({ err: error, pool: name }, "the pool cannot be asked");
      return { ...known, usage: undefined, message: `Pool "${name}" cannot be used: ${messageOf(error)}` };
    }
  }

  /** Tells of a step that was reached or left; returns what is the matter. */
  #tell(pool: string, usage: PoolUsage): string {
    const before = this.#levels.get(pool) ?? 0;
    const level = levelOf(usage, before);
    const message = level === 0 ? "" : fullText(pool, usage);
    this.#levels.set(pool, level);
    if (level > before) this.#event(pool, EventType.WARNING, `PoolAbove${level}`, message);
    else if (level < before) {
      const percent = Math.round((usage.usedBytes / usage.sizeBytes) * 100);
      this.#event(
        pool,
        EventType.NORMAL,
        level === 0 ? "PoolHasRoom" : `PoolBelow${before}`,
        `Pool "${pool}" is ${percent} % full`,
      );
    }
    return message;
  }

  #promised(pool: string): number {
    return this.#options.store.volumes
      .list()
      .filter((volume) => volume.pool === pool)
      .reduce((sum, { spec }) => sum + wholeExtents(Number(spec.sizeBytes)), 0);
  }

  #overcommit(pool: string): number {
    return Number(this.#options.store.meta.get(metaKey(pool)) ?? defaultOvercommitPercent);
  }

  #event(pool: string, type: EventType, reason: string, message: string): void {
    this.#options.store.events.add({ objectKind: "pool", objectName: pool, type, reason, message, time: new Date() });
  }
}

function fullText(pool: string, { sizeBytes, usedBytes, metadataRatio }: PoolUsage): string {
  const percent = Math.round((usedBytes / sizeBytes) * 100);
  const metadata = metadataRatio >= 0.8 ? `, its metadata ${Math.round(metadataRatio * 100)} %` : "";
  return (
    `Pool "${pool}" is ${percent} % full (${gib(usedBytes)} of ${gib(sizeBytes)})${metadata}: when it is full, writes fail. ` +
    "Delete snapshots or volumes (`capsulectl volume list`), or give it a larger disk"
  );
}

function metaKey(pool: string): string {
  return `pool.${pool}.overcommit-percent`;
}

function gib(bytes: number): string {
  return bytes >= GiB ? `${(bytes / GiB).toFixed(1)} GiB` : `${Math.round(bytes / 1024 ** 2)} MiB`;
}
