import type { Database } from "./database.ts";

/** Single values: the capsule's id, the workload subnets. */
export class MetaRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  get(key: string): string | undefined {
    return this.#db.get("SELECT value FROM meta WHERE key = ?", key)?.["value"] as string | undefined;
  }

  set(key: string, value: string): void {
    this.#db.transaction(() => {
      this.#db.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value);
    });
  }
}
