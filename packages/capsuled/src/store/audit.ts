import type { Database } from "./database.ts";

/** Entries kept; older ones are dropped. */
const entriesKept = 10_000;

export interface AuditRecord {
  readonly sequence: number;
  readonly time: Date;
  readonly keyId: string;
  readonly keyName: string;
  /** Fully qualified, such as "capsule.v1.WorkloadService/Apply". */
  readonly method: string;
  readonly objects: readonly string[];
  /** "ok" or the RPC code's name. */
  readonly result: string;
  readonly peerAddress: string;
}

/** Every mutating call with its key. */
export class AuditRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  add(entry: Omit<AuditRecord, "sequence">): void {
    this.#db.transaction(() => {
      const { sequence } = this.#db.get(
        `INSERT INTO audit (time, key_id, key_name, method, objects, result, peer_address)
         VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING sequence`,
        entry.time.getTime(),
        entry.keyId,
        entry.keyName,
        entry.method,
        JSON.stringify(entry.objects),
        entry.result,
        entry.peerAddress,
      ) as { sequence: number };
      this.#db.run("DELETE FROM audit WHERE sequence <= ?", sequence - entriesKept);
    });
  }

  /** The newest `limit`, oldest first. */
  newest(limit: number): AuditRecord[] {
    return this.#db
      .all("SELECT * FROM audit ORDER BY sequence DESC LIMIT ?", limit)
      .reverse()
      .map((row) => ({
        sequence: Number(row["sequence"]),
        time: new Date(Number(row["time"])),
        keyId: row["key_id"] as string,
        keyName: row["key_name"] as string,
        method: row["method"] as string,
        objects: JSON.parse(row["objects"] as string) as string[],
        result: row["result"] as string,
        peerAddress: row["peer_address"] as string,
      }));
  }
}
