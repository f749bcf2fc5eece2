import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { VolumePhase, type VolumeSpec, VolumeSpecSchema, type VolumeStatus, VolumeStatusSchema } from "@capsule/api";
import type { ChangeFeed } from "./changes.ts";
import type { Database, Row } from "./database.ts";
import { newUid } from "./uid.ts";

/** A wanted volume with what is known of it. The row is the promise: a disk without one may go, one with it may not. */
export interface VolumeRecord {
  readonly name: string;
  readonly uid: string;
  readonly spec: VolumeSpec;
  readonly pool: string;
  /** The disk that holds its data. */
  readonly diskUid: string;
  /** That disk has been whole: when it is not there, data is lost. */
  readonly provisioned: boolean;
  readonly deleting: boolean;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  /** Phase, message and since; the rest is looked up when it is asked for. */
  readonly status: VolumeStatus;
}

export class VolumeRepository {
  readonly #db: Database;
  readonly #changes: ChangeFeed;

  constructor(db: Database, changes: ChangeFeed) {
    this.#db = db;
    this.#changes = changes;
  }

  get(name: string): VolumeRecord | undefined {
    const row = this.#db.get("SELECT * FROM volumes WHERE name = ?", name);
    return row && recordOf(row);
  }

  byUid(uid: string): VolumeRecord | undefined {
    const row = this.#db.get("SELECT * FROM volumes WHERE uid = ?", uid);
    return row && recordOf(row);
  }

  /** All, by name. */
  list(): VolumeRecord[] {
    return this.#db.all("SELECT * FROM volumes ORDER BY name").map(recordOf);
  }

  /** Adds a volume that does not exist. `disk`: a disk that was made for it already; else one will be. */
  insert(spec: VolumeSpec, pool: string, now: Date, disk?: { readonly uid: string }): VolumeRecord {
    const status = create(VolumeStatusSchema, {
      phase: VolumePhase.PENDING,
      message: "Waiting to be made",
      since: timestampFromDate(now),
    });
    this.#db.run(
      "INSERT INTO volumes (name, uid, spec, pool, disk_uid, provisioned, created_at, updated_at, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      spec.name,
      newUid("v"),
      toBinary(VolumeSpecSchema, spec),
      pool,
      disk?.uid ?? newUid("d"),
      Number(disk !== undefined),
      now.getTime(),
      now.getTime(),
      toBinary(VolumeStatusSchema, status),
    );
    return this.#changed(spec.name);
  }

  updateSpec(spec: VolumeSpec, now: Date): VolumeRecord {
    const binary = toBinary(VolumeSpecSchema, spec);
    this.#db.run("UPDATE volumes SET spec = ?, updated_at = ? WHERE name = ?", binary, now.getTime(), spec.name);
    return this.#changed(spec.name);
  }

  /** Its disk is whole and at its place. Durable: from now on its absence is a loss. */
  setProvisioned(uid: string): void {
    this.#db.run("UPDATE volumes SET provisioned = 1 WHERE uid = ?", uid);
  }

  /** From now on another disk holds its data; the caller keeps what becomes of the one before. */
  setDisk(uid: string, diskUid: string, now: Date): void {
    this.#db.run(
      "UPDATE volumes SET disk_uid = ?, provisioned = 1, updated_at = ? WHERE uid = ?",
      diskUid,
      now.getTime(),
      uid,
    );
  }

  /** Name of the volume whose data a disk holds. */
  ownerOfDisk(diskUid: string): string | undefined {
    return this.#db.get("SELECT name FROM volumes WHERE disk_uid = ?", diskUid)?.["name"] as string | undefined;
  }

  /** Its status says so from now on: whoever waits for its end must not take it for another one of its name. */
  markDeleting(name: string, now: Date): VolumeRecord {
    const status = create(VolumeStatusSchema, {
      phase: VolumePhase.DELETING,
      message: "Waiting to be removed",
      since: timestampFromDate(now),
    });
    this.#db.run(
      "UPDATE volumes SET deleting = 1, updated_at = ?, status = ? WHERE name = ?",
      now.getTime(),
      toBinary(VolumeStatusSchema, status),
      name,
    );
    return this.#changed(name);
  }

  /** What was observed. Changes nothing when the volume is gone. */
  setStatus(uid: string, status: VolumeStatus): void {
    this.#db.observation(() => {
      const name = this.#db.get("SELECT name FROM volumes WHERE uid = ?", uid)?.["name"];
      if (typeof name !== "string") return;
      this.#db.run("UPDATE volumes SET status = ? WHERE uid = ?", toBinary(VolumeStatusSchema, status), uid);
      this.#db.afterCommit(() => this.#changes.publish({ kind: "volumeStatus", name, volumeUid: uid }));
    });
  }

  /** Forgets a volume of which nothing is left. */
  remove(uid: string): void {
    this.#db.transaction(() => {
      const name = this.#db.get("SELECT name FROM volumes WHERE uid = ?", uid)?.["name"];
      if (typeof name !== "string") return;
      this.#db.run("DELETE FROM volumes WHERE uid = ?", uid);
      this.#db.afterCommit(() => this.#changes.publish({ kind: "volumeGone", name, volumeUid: uid }));
    });
  }

  #changed(name: string): VolumeRecord {
    const record = this.get(name);
    if (record === undefined) throw new Error(`volume ${name} is not in the store`);
    this.#db.afterCommit(() => this.#changes.publish({ kind: "volume", name, volumeUid: record.uid }));
    return record;
  }
}

function recordOf(row: Row): VolumeRecord {
  return {
    name: row["name"] as string,
    uid: row["uid"] as string,
    spec: fromBinary(VolumeSpecSchema, row["spec"] as Uint8Array),
    pool: row["pool"] as string,
    diskUid: row["disk_uid"] as string,
    provisioned: row["provisioned"] === 1,
    deleting: row["deleting"] === 1,
    createdAt: new Date(Number(row["created_at"])),
    updatedAt: new Date(Number(row["updated_at"])),
    status: fromBinary(VolumeStatusSchema, row["status"] as Uint8Array),
  };
}
