import type { Database } from "./database.ts";

export interface AddressRecord {
  readonly address: string;
  readonly uid: string;
  readonly family: 4 | 6;
}

/** Addresses of workloads. Which one is free is the allocator's question; that none is given twice is settled here. */
export class AddressRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  list(): AddressRecord[] {
    return this.#db.all("SELECT address, uid, family FROM addresses").map(recordOf);
  }

  of(uid: string): AddressRecord[] {
    return this.#db.all("SELECT address, uid, family FROM addresses WHERE uid = ? ORDER BY family", uid).map(recordOf);
  }

  isTaken(address: string): boolean {
    return this.#db.get("SELECT 1 FROM addresses WHERE address = ?", address) !== undefined;
  }

  /** Throws when the address is taken or the workload has one of this family. */
  insert(record: AddressRecord): void {
    this.#db.run(
      "INSERT INTO addresses (address, uid, family) VALUES (?, ?, ?)",
      record.address,
      record.uid,
      record.family,
    );
  }

  release(uid: string): void {
    this.#db.run("DELETE FROM addresses WHERE uid = ?", uid);
  }
}

function recordOf(row: Record<string, unknown>): AddressRecord {
  return {
    address: row["address"] as string,
    uid: row["uid"] as string,
    family: row["family"] as 4 | 6,
  };
}
