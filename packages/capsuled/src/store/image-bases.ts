import type { Database, Row } from "./database.ts";

/** Root filesystem of an image as a disk. */
export interface ImageBaseRecord {
  readonly digest: string;
  readonly platform: string;
  readonly diskUid: string;
  readonly sizeBytes: number;
  readonly lastUsedAt: Date;
  readonly deleting: boolean;
}

/** A disk that was made of one, for its owner alone. */
export interface RootDiskRecord {
  /** Uid of the workload. */
  readonly owner: string;
  readonly diskUid: string;
  /** Of the image that it was made of. */
  readonly digest: string;
  readonly deleting: boolean;
}

export class ImageBaseRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  get(digest: string, platform: string): ImageBaseRecord | undefined {
    const row = this.#db.get("SELECT * FROM image_bases WHERE digest = ? AND platform = ?", digest, platform);
    return row && baseOf(row);
  }

  list(): ImageBaseRecord[] {
    return this.#db.all("SELECT * FROM image_bases ORDER BY digest, platform").map(baseOf);
  }

  insert(base: Omit<ImageBaseRecord, "deleting">): void {
    const { digest, platform, diskUid, sizeBytes, lastUsedAt } = base;
    this.#db.run(
      "INSERT INTO image_bases (digest, platform, disk_uid, size_bytes, last_used_at) VALUES (?, ?, ?, ?, ?)",
      digest,
      platform,
      diskUid,
      sizeBytes,
      lastUsedAt.getTime(),
    );
  }

  /** Observed, not promised. */
  noteUse(diskUid: string, now: Date): void {
    this.#db.observation(() =>
      this.#db.run("UPDATE image_bases SET last_used_at = ? WHERE disk_uid = ?", now.getTime(), diskUid),
    );
  }

  markDeleting(diskUid: string): void {
    this.#db.run("UPDATE image_bases SET deleting = 1 WHERE disk_uid = ?", diskUid);
  }

  remove(diskUid: string): void {
    this.#db.run("DELETE FROM image_bases WHERE disk_uid = ?", diskUid);
  }

  root(owner: string): RootDiskRecord | undefined {
    const row = this.#db.get("SELECT * FROM root_disks WHERE owner = ?", owner);
    return row && rootOf(row);
  }

  roots(): RootDiskRecord[] {
    return this.#db.all("SELECT * FROM root_disks ORDER BY owner").map(rootOf);
  }

  insertRoot({ owner, diskUid, digest }: Omit<RootDiskRecord, "deleting">): void {
    this.#db.run("INSERT INTO root_disks (owner, disk_uid, digest) VALUES (?, ?, ?)", owner, diskUid, digest);
  }

  markRootDeleting(owner: string): void {
    this.#db.run("UPDATE root_disks SET deleting = 1 WHERE owner = ?", owner);
  }

  removeRoot(owner: string): void {
    this.#db.run("DELETE FROM root_disks WHERE owner = ?", owner);
  }

  /** Whether a row speaks of a disk. */
  hasDisk(diskUid: string): boolean {
    const sql = "SELECT 1 FROM image_bases WHERE disk_uid = ? UNION SELECT 1 FROM root_disks WHERE disk_uid = ?";
    return this.#db.get(sql, diskUid, diskUid) !== undefined;
  }
}

function baseOf(row: Row): ImageBaseRecord {
  return {
    digest: row["digest"] as string,
    platform: row["platform"] as string,
    diskUid: row["disk_uid"] as string,
    sizeBytes: Number(row["size_bytes"]),
    lastUsedAt: new Date(Number(row["last_used_at"])),
    deleting: row["deleting"] === 1,
  };
}

function rootOf(row: Row): RootDiskRecord {
  return {
    owner: row["owner"] as string,
    diskUid: row["disk_uid"] as string,
    digest: row["digest"] as string,
    deleting: row["deleting"] === 1,
  };
}
