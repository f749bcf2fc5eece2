/** The pools of this capsule. One so far: `default`. */
import { CapsuleError, messageOf } from "../../errors.ts";
import { defaultPool } from "../layout.ts";
import type { BackendKind, PoolBackend, PoolUsage } from "./backend.ts";

export class Pool {
  readonly name: string;
  readonly #backend: PoolBackend;
  #opening: Promise<"open" | "absent"> | undefined;

  constructor(name: string, backend: PoolBackend) {
    this.name = name;
    this.#backend = backend;
  }

  get kind(): BackendKind {
    return this.#backend.kind;
  }

  /**
   * The backend, open. Undefined when the pool has never been made and `create` does not say that it may be now. Throws
   * CapsuleError saying why it cannot be opened; the next call tries again.
   */
  async open(create: boolean): Promise<PoolBackend | undefined> {
    this.#opening ??= this.#backend.open(create);
    try {
      const state = await this.#opening;
      if (state === "open") return this.#backend;
      this.#opening = undefined;
      return create ? await this.open(true) : undefined;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
  }

  /** How full it is; of one that has not been made, what it would be. Throws CapsuleError when it cannot be asked. */
  async usage(): Promise<PoolUsage> {
    await this.open(false);
    return await this.#backend.usage();
  }

  /** As `open`, for a pool that must be there. */
  async use(): Promise<PoolBackend> {
    const backend = await this.open(false).catch((error: unknown) => {
      throw new CapsuleError("unavailable", `Pool "${this.name}" cannot be used: ${messageOf(error)}`, {
        cause: error,
        reason: "POOL_UNAVAILABLE",
        metadata: { pool: this.name },
      });
    });
    if (backend === undefined) {
      throw new CapsuleError("unavailable", `Pool "${this.name}" is not there.`, {
        reason: "POOL_UNAVAILABLE",
        metadata: { pool: this.name },
      });
    }
    return backend;
  }
}

export class Pools {
  readonly #byName: ReadonlyMap<string, Pool>;

  constructor(pools: readonly Pool[]) {
    this.#byName = new Map(pools.map((pool) => [pool.name, pool]));
  }

  list(): Pool[] {
    return [...this.#byName.values()];
  }

  find(name: string): Pool | undefined {
    return this.#byName.get(name === "" ? defaultPool : name);
  }

  /** Throws `notFound`. */
  get(name: string): Pool {
    const pool = this.find(name);
    if (pool !== undefined) return pool;
    throw new CapsuleError(
      "notFound",
      `No pool has the name "${name}". There is ${[...this.#byName.keys()].join(", ")}.`,
      {
        reason: "NO_POOL",
        metadata: { pool: name },
      },
    );
  }
}
