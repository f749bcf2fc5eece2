import type { ChangeFeed } from "./changes.ts";
import type { Database, Row } from "./database.ts";

/** Credentials and mirrors of a registry. The password never leaves the capsule again. */
export interface RegistryRecord {
  /** Host and port as in image references. */
  readonly host: string;
  /** Base URLs, tried in order before the registry itself. */
  readonly mirrors: readonly string[];
  readonly username: string;
  readonly password: string;
  readonly plainHttp: boolean;
  /** PEM, or empty for the public authorities. */
  readonly caCertificate: string;
}

export class RegistryRepository {
  readonly #db: Database;
  readonly #changes: ChangeFeed;

  constructor(db: Database, changes: ChangeFeed) {
    this.#db = db;
    this.#changes = changes;
  }

  list(): RegistryRecord[] {
    return this.#db.all("SELECT * FROM registries ORDER BY host").map(recordOf);
  }

  get(host: string): RegistryRecord | undefined {
    const row = this.#db.get("SELECT * FROM registries WHERE host = ?", host);
    return row && recordOf(row);
  }

  set(registry: RegistryRecord): void {
    this.#db.transaction(() => {
      this.#db.run(
        `INSERT OR REPLACE INTO registries (host, mirrors, username, password, plain_http, ca_certificate)
         VALUES (?, ?, ?, ?, ?, ?)`,
        registry.host,
        JSON.stringify(registry.mirrors),
        registry.username,
        registry.password,
        registry.plainHttp ? 1 : 0,
        registry.caCertificate,
      );
      this.#publish();
    });
  }

  /** False when there was none. */
  remove(host: string): boolean {
    return this.#db.transaction(() => {
      this.#publish();
      return this.#db.run("DELETE FROM registries WHERE host = ?", host) === 1;
    });
  }

  #publish(): void {
    this.#db.afterCommit(() => this.#changes.publish({ kind: "registries" }));
  }
}

function recordOf(row: Row): RegistryRecord {
  return {
    host: row["host"] as string,
    mirrors: JSON.parse(row["mirrors"] as string) as string[],
    username: row["username"] as string,
    password: row["password"] as string,
    plainHttp: row["plain_http"] === 1,
    caCertificate: row["ca_certificate"] as string,
  };
}
