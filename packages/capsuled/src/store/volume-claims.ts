import { CapsuleError } from "../errors.ts";
import type { Database } from "./database.ts";

export interface VolumeClaim {
  readonly volume: string;
  readonly readOnly: boolean;
}

export interface VolumeUser {
  readonly uid: string;
  readonly name: string;
  readonly readOnly: boolean;
}

/** Volumes that workloads mount, from apply until the workload is gone, whether it runs or not. */
export class VolumeClaimRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /**
   * Replaces the claims of a workload. Throws CapsuleError `conflict` naming the holder when another one mounts the same
   * volume, unless both only read it. To be called inside the transaction of the apply.
   */
  replace(uid: string, claims: readonly VolumeClaim[]): void {
    this.#db.transaction(() => {
      this.#db.run("DELETE FROM volume_claims WHERE uid = ?", uid);
      for (const { volume, readOnly } of claims) {
        const holder = this.users(volume).find((user) => !(readOnly && user.readOnly));
        if (holder !== undefined) throw held(volume, holder);
        this.#db.run(
          "INSERT INTO volume_claims (volume, uid, read_only) VALUES (?, ?, ?)",
          volume,
          uid,
          Number(readOnly),
        );
      }
    });
  }

  /** Workloads that mount a volume, by name. */
  users(volume: string): VolumeUser[] {
    return this.#db
      .all(
        `SELECT workloads.uid, workloads.name, read_only FROM volume_claims JOIN workloads USING (uid)
         WHERE volume = ? ORDER BY workloads.name`,
        volume,
      )
      .map((row) => ({ uid: row["uid"] as string, name: row["name"] as string, readOnly: row["read_only"] === 1 }));
  }

  of(uid: string): VolumeClaim[] {
    return this.#db
      .all("SELECT volume, read_only FROM volume_claims WHERE uid = ? ORDER BY volume", uid)
      .map((row) => ({ volume: row["volume"] as string, readOnly: row["read_only"] === 1 }));
  }
}

function held(volume: string, { name, readOnly }: VolumeUser): CapsuleError {
  const how = readOnly ? "mounts it to read, and this one would write" : "mounts it";
  return new CapsuleError(
    "conflict",
    `Volume "${volume}" is held by workload "${name}", which ${how}. One mounter is possible, or several with readOnly: ` +
      "true; change or delete that workload first.",
    { reason: "VOLUME_HELD", metadata: { volume, holder: name } },
  );
}
