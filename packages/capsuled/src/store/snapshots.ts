import type { Database, Row } from "./database.ts";
import { newUid } from "./uid.ts";

export type SnapshotOrigin = "manual" | "schedule" | "restore";

/** A snapshot that was promised: its disk is kept until the row says that it is being deleted. */
export interface SnapshotRecord {
  readonly uid: string;
  readonly volumeUid: string;
  readonly name: string;
  readonly diskUid: string;
  readonly sizeBytes: number;
  readonly origin: SnapshotOrigin;
  readonly deleting: boolean;
  readonly createdAt: Date;
}

export class SnapshotRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** Of one volume, oldest first. */
  of(volumeUid: string): SnapshotRecord[] {
    const sql = "SELECT * FROM snapshots WHERE volume_uid = ? ORDER BY created_at, name";
    return this.#db.all(sql, volumeUid).map(recordOf);
  }

  get(volumeUid: string, name: string): SnapshotRecord | undefined {
    const row = this.#db.get("SELECT * FROM snapshots WHERE volume_uid = ? AND name = ?", volumeUid, name);
    return row && recordOf(row);
  }

  byDisk(diskUid: string): SnapshotRecord | undefined {
    const row = this.#db.get("SELECT * FROM snapshots WHERE disk_uid = ?", diskUid);
    return row && recordOf(row);
  }

  /** `uid`: one that the disk's name was made of; a new one when absent. */
  insert(snapshot: Omit<SnapshotRecord, "uid" | "deleting"> & { readonly uid?: string }): void {
    const { uid = newUid("s"), volumeUid, name, diskUid, sizeBytes, origin, createdAt } = snapshot;
    this.#db.run(
      "INSERT INTO snapshots (uid, volume_uid, name, disk_uid, size_bytes, origin, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
      uid,
      volumeUid,
      name,
      diskUid,
      sizeBytes,
      origin,
      createdAt.getTime(),
    );
  }

  markDeleting(uid: string): void {
    this.#db.run("UPDATE snapshots SET deleting = 1 WHERE uid = ?", uid);
  }

  remove(uid: string): void {
    this.#db.run("DELETE FROM snapshots WHERE uid = ?", uid);
  }
}

function recordOf(row: Row): SnapshotRecord {
  return {
    uid: row["uid"] as string,
    volumeUid: row["volume_uid"] as string,
    name: row["name"] as string,
    diskUid: row["disk_uid"] as string,
    sizeBytes: Number(row["size_bytes"]),
    origin: row["origin"] as SnapshotOrigin,
    deleting: row["deleting"] === 1,
    createdAt: new Date(Number(row["created_at"])),
  };
}
