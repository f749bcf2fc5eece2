/**
 * The one module that knows node:sqlite. Opens the database with the durability that the product promises, runs the
 * migrations, and gives transactions.
 */
import { chmodSync } from "node:fs";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { mayCrash } from "../crash-point.ts";
import { CapsuleError } from "../errors.ts";
import { migrations } from "./migrations.ts";

export type Row = Record<string, null | number | bigint | string | Uint8Array>;

export class Database {
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #afterCommit: (() => void)[] = [];
  #inTransaction = false;

  /**
   * Opens or creates the database at `path`, mode 0600, and brings its schema up to date.
   * Throws CapsuleError `internal` when it was written by a newer version or is damaged.
   */
  constructor(path: string) {
    // A capsule has one writer; the timeout is for a person with the sqlite3 shell.
    this.#db = new DatabaseSync(path, { timeout: 5_000 });
    chmodSync(path, 0o600);
    // FULL: with WAL, only then is a commit on the disk before it is acknowledged.
    this.#db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;");
    this.#migrate(path);
  }

  all(sql: string, ...values: SQLInputValue[]): Row[] {
    return this.#prepare(sql).all(...values) as Row[];
  }

  get(sql: string, ...values: SQLInputValue[]): Row | undefined {
    return this.#prepare(sql).get(...values) as Row | undefined;
  }

  /** Returns the number of rows changed. */
  run(sql: string, ...values: SQLInputValue[]): number {
    try {
      const changes = Number(this.#prepare(sql).run(...values).changes);
      if (!this.#inTransaction) mayCrash();
      return changes;
    } catch (error) {
      throw fullDisk(error) ?? error;
    }
  }

  /**
   * Runs `work` in one transaction: all of it becomes durable or none. A call inside another joins it. `work` must not
   * be asynchronous: nothing else may write in between.
   */
  transaction<T>(work: () => T): T {
    if (this.#inTransaction) return work();
    this.#db.exec("BEGIN IMMEDIATE");
    this.#inTransaction = true;
    let result: T;
    try {
      result = work();
      this.#db.exec("COMMIT");
    } catch (error) {
      this.#afterCommit = [];
      // SQLite has rolled back by itself after some errors, such as a full disk.
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      throw fullDisk(error) ?? error;
    } finally {
      this.#inTransaction = false;
    }
    mayCrash();
    const callbacks = this.#afterCommit;
    this.#afterCommit = [];
    for (const callback of callbacks) callback();
    return result;
  }

  /**
   * As `transaction`, for what was observed and not promised to anyone (statuses, events): a power cut may lose the last
   * of it, never tear it, and no commit waits for the disk.
   */
  observation<T>(work: () => T): T {
    if (this.#inTransaction) return work();
    this.#db.exec("PRAGMA synchronous = NORMAL");
    try {
      return this.transaction(work);
    } finally {
      this.#db.exec("PRAGMA synchronous = FULL");
    }
  }

  /** Number of the schema, and rows of each table. */
  facts(): { readonly schema: number; readonly rows: Readonly<Record<string, number>> } {
    const tables = this.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    const rows = tables.map(({ name }): [string, number] => [
      String(name),
      Number(this.get(`SELECT count(*) AS n FROM "${name}"`)?.["n"]),
    ]);
    return { schema: Number(this.get("PRAGMA user_version")?.["user_version"]), rows: Object.fromEntries(rows) };
  }

  /** Calls back once the current transaction is durable; never when it is rolled back. At once outside of one. */
  afterCommit(callback: () => void): void {
    if (this.#inTransaction) this.#afterCommit.push(callback);
    else callback();
  }

  close(): void {
    this.#statements.clear();
    this.#db.close();
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  #migrate(path: string): void {
    const found = Number(this.get("PRAGMA user_version")?.["user_version"] ?? 0);
    if (found > migrations.length) {
      throw new CapsuleError(
        "internal",
        `${path} has schema ${found}, and this version knows ${migrations.length} at most: it was written by a newer ` +
          "version of Capsule. Boot that version, or restore the backup of this one.",
      );
    }
    for (const [index, step] of migrations.entries()) {
      if (index < found) continue;
      this.transaction(() => {
        this.#db.exec(step);
        this.#db.exec(`PRAGMA user_version = ${index + 1}`);
      });
    }
  }
}

/** SQLITE_FULL (13) and SQLITE_IOERR (10), https://www.sqlite.org/rescode.html. */
function fullDisk(error: unknown): CapsuleError | undefined {
  const code = (error as { errcode?: number } | null)?.errcode;
  if (code === undefined || ((code & 0xff) !== 13 && (code & 0xff) !== 10)) return undefined;
  return new CapsuleError(
    "exhausted",
    "The state could not be written: is the disk of /perm full? Nothing was changed.",
    {
      cause: error,
      reason: "STATE_NOT_WRITTEN",
    },
  );
}
