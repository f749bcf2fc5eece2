import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Phase, type WorkloadSpec, WorkloadSpecSchema, type WorkloadStatus, WorkloadStatusSchema } from "@capsule/api";
import type { ChangeFeed } from "./changes.ts";
import type { Database, Row } from "./database.ts";
import { newUid } from "./uid.ts";

/** A wanted workload with what is known of it. */
export interface WorkloadRecord {
  readonly name: string;
  readonly uid: string;
  readonly spec: WorkloadSpec;
  /** Counts changes of the spec, from 1. */
  readonly generation: number;
  readonly desired: "running" | "stopped";
  /** Of one that is wanted running: its processes are to stand still. */
  readonly paused: boolean;
  /** Counts the restarts that were asked for, so that each is carried out once. */
  readonly restartsWanted: number;
  readonly restartsDone: number;
  readonly deleting: boolean;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  readonly status: WorkloadStatus;
}

export class WorkloadRepository {
  readonly #db: Database;
  readonly #changes: ChangeFeed;

  constructor(db: Database, changes: ChangeFeed) {
    this.#db = db;
    this.#changes = changes;
  }

  get(name: string): WorkloadRecord | undefined {
    const row = this.#db.get("SELECT * FROM workloads WHERE name = ?", name);
    return row && recordOf(row);
  }

  byUid(uid: string): WorkloadRecord | undefined {
    const row = this.#db.get("SELECT * FROM workloads WHERE uid = ?", uid);
    return row && recordOf(row);
  }

  /** All, by name. */
  list(): WorkloadRecord[] {
    return this.#db.all("SELECT * FROM workloads ORDER BY name").map(recordOf);
  }

  count(): number {
    return Number(this.#db.get("SELECT count(*) AS n FROM workloads")?.["n"] ?? 0);
  }

  /** Adds a workload that does not exist, wanted running, generation 1. */
  insert(spec: WorkloadSpec, now: Date): WorkloadRecord {
    const uid = newUid("w");
    const status = create(WorkloadStatusSchema, {
      phase: Phase.PENDING,
      message: "Waiting to be started",
      since: timestampFromDate(now),
    });
    this.#db.run(
      "INSERT INTO workloads (name, uid, spec, generation, desired, created_at, updated_at, status) VALUES (?, ?, ?, 1, 'running', ?, ?, ?)",
      spec.name,
      uid,
      toBinary(WorkloadSpecSchema, spec),
      now.getTime(),
      now.getTime(),
      toBinary(WorkloadStatusSchema, status),
    );
    return this.#changed(spec.name, "workload");
  }

  /** Replaces the spec and counts the generation up. */
  updateSpec(spec: WorkloadSpec, now: Date): WorkloadRecord {
    this.#db.run(
      "UPDATE workloads SET spec = ?, generation = generation + 1, updated_at = ? WHERE name = ?",
      toBinary(WorkloadSpecSchema, spec),
      now.getTime(),
      spec.name,
    );
    return this.#changed(spec.name, "workload");
  }

  setDesired(name: string, desired: "running" | "stopped", now: Date): WorkloadRecord {
    this.#db.run(
      "UPDATE workloads SET desired = ?, paused = 0, updated_at = ? WHERE name = ?",
      desired,
      now.getTime(),
      name,
    );
    return this.#changed(name, "workload");
  }

  setPaused(name: string, paused: boolean, now: Date): WorkloadRecord {
    this.#db.run("UPDATE workloads SET paused = ?, updated_at = ? WHERE name = ?", paused ? 1 : 0, now.getTime(), name);
    return this.#changed(name, "workload");
  }

  /** Asks for one restart; one that is stopped or paused is wanted running again. */
  requestRestart(name: string, now: Date): WorkloadRecord {
    this.#db.run(
      "UPDATE workloads SET restarts_wanted = restarts_wanted + 1, desired = 'running', paused = 0, updated_at = ? WHERE name = ?",
      now.getTime(),
      name,
    );
    return this.#changed(name, "workload");
  }

  /**
   * Notes that restarts up to this count are carried out. Written after the start: when capsuled is killed in between,
   * the workload restarts once more rather than not at all.
   */
  setRestartsDone(uid: string, count: number): void {
    this.#db.observation(() => this.#db.run("UPDATE workloads SET restarts_done = ? WHERE uid = ?", count, uid));
  }

  /**
   * Notes a start in the status, and counts it as a restart when it is not the first of this spec: a run may be over
   * before anybody looks. Returns whether it was the first.
   */
  noteStart(uid: string, now: Date): boolean {
    const status = this.byUid(uid)?.status;
    if (status === undefined) return true;
    const isFirst = status.startedAt === undefined;
    if (!isFirst) status.restartCount++;
    status.startedAt = timestampFromDate(now);
    this.setStatus(uid, status);
    return isFirst;
  }

  markDeleting(name: string, now: Date): WorkloadRecord {
    this.#db.run("UPDATE workloads SET deleting = 1, updated_at = ? WHERE name = ?", now.getTime(), name);
    return this.#changed(name, "workload");
  }

  /** What was observed. Changes nothing when the workload is gone. */
  setStatus(uid: string, status: WorkloadStatus): void {
    this.#db.observation(() => {
      const name = this.#db.get("SELECT name FROM workloads WHERE uid = ?", uid)?.["name"];
      if (typeof name !== "string") return;
      this.#db.run("UPDATE workloads SET status = ? WHERE uid = ?", toBinary(WorkloadStatusSchema, status), uid);
      this.#db.afterCommit(() => this.#changes.publish({ kind: "workloadStatus", name, uid }));
    });
  }

  /** Forgets a workload of which nothing is left, with its addresses and ports. */
  remove(uid: string): void {
    this.#db.transaction(() => {
      const name = this.#db.get("SELECT name FROM workloads WHERE uid = ?", uid)?.["name"];
      if (typeof name !== "string") return;
      this.#db.run("DELETE FROM addresses WHERE uid = ?", uid);
      this.#db.run("DELETE FROM host_ports WHERE uid = ?", uid);
      this.#db.run("DELETE FROM volume_claims WHERE uid = ?", uid);
      this.#db.run("DELETE FROM workloads WHERE uid = ?", uid);
      this.#db.afterCommit(() => this.#changes.publish({ kind: "workloadGone", name, uid }));
    });
  }

  #changed(name: string, kind: "workload"): WorkloadRecord {
    const record = this.get(name);
    if (record === undefined) throw new Error(`workload ${name} is not in the store`);
    this.#db.afterCommit(() => this.#changes.publish({ kind, name, uid: record.uid }));
    return record;
  }
}

function recordOf(row: Row): WorkloadRecord {
  return {
    name: row["name"] as string,
    uid: row["uid"] as string,
    spec: fromBinary(WorkloadSpecSchema, row["spec"] as Uint8Array),
    generation: Number(row["generation"]),
    desired: row["desired"] as "running" | "stopped",
    paused: row["paused"] === 1,
    restartsWanted: Number(row["restarts_wanted"]),
    restartsDone: Number(row["restarts_done"]),
    deleting: row["deleting"] === 1,
    createdAt: new Date(Number(row["created_at"])),
    updatedAt: new Date(Number(row["updated_at"])),
    status: fromBinary(WorkloadStatusSchema, row["status"] as Uint8Array),
  };
}
