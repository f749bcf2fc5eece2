import type { EventType } from "@capsule/api";
import type { ChangeFeed } from "./changes.ts";
import type { Database, Row } from "./database.ts";

/** Kept for each object; older ones are dropped. */
const eventsPerObject = 100;

export interface EventRecord {
  readonly sequence: number;
  readonly objectKind: "workload" | "volume" | "pool" | "capsule";
  readonly objectName: string;
  readonly type: EventType;
  readonly reason: string;
  readonly message: string;
  readonly count: number;
  readonly time: Date;
}

/** Which events; all that is not said is any. */
export interface EventSelection {
  readonly kinds?: readonly EventRecord["objectKind"][];
  readonly name?: string;
  /** Not before this. */
  readonly since?: Date;
}

/** A rolling log of what happened to each object. The same again, right after itself, only counts up. */
export class EventRepository {
  readonly #db: Database;
  readonly #changes: ChangeFeed;

  constructor(db: Database, changes: ChangeFeed) {
    this.#db = db;
    this.#changes = changes;
  }

  add(event: Omit<EventRecord, "sequence" | "count">): void {
    const { objectKind, objectName, type, reason, message, time } = event;
    this.#db.observation(() => {
      const last = this.#db.get(
        "SELECT * FROM events WHERE object_kind = ? AND object_name = ? ORDER BY sequence DESC LIMIT 1",
        objectKind,
        objectName,
      );
      let count = 1;
      if (last !== undefined && last["reason"] === reason && last["message"] === message) {
        // A new sequence number, so that a follower sees it again.
        count = Number(last["count"]) + 1;
        this.#db.run("DELETE FROM events WHERE sequence = ?", last["sequence"] as number);
      }
      const { sequence } = this.#db.get(
        `INSERT INTO events (object_kind, object_name, type, reason, message, count, time)
         VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING sequence`,
        objectKind,
        objectName,
        type,
        reason,
        message,
        count,
        time.getTime(),
      ) as { sequence: number };
      this.#db.run(
        `DELETE FROM events WHERE object_kind = ? AND object_name = ? AND sequence <= (
           SELECT sequence FROM events WHERE object_kind = ? AND object_name = ? ORDER BY sequence DESC LIMIT 1 OFFSET ?)`,
        objectKind,
        objectName,
        objectKind,
        objectName,
        eventsPerObject,
      );
      this.#db.afterCommit(() => this.#changes.publish({ kind: "event", sequence }));
    });
  }

  /** Forgets the events of an object that is gone: another one of its name has none of them. */
  removeOf(objectKind: EventRecord["objectKind"], objectName: string): void {
    this.#db.run("DELETE FROM events WHERE object_kind = ? AND object_name = ?", objectKind, objectName);
  }

  /** The newest `limit`, oldest first. */
  newest(limit: number, { kinds, name, since }: EventSelection = {}): EventRecord[] {
    const conditions = [
      ...(kinds === undefined ? [] : [`object_kind IN (${kinds.map(() => "?").join(", ")})`]),
      ...(name === undefined ? [] : ["object_name = ?"]),
      ...(since === undefined ? [] : ["time >= ?"]),
    ];
    const values = [
      ...(kinds ?? []),
      ...(name === undefined ? [] : [name]),
      ...(since === undefined ? [] : [since.getTime()]),
    ];
    const where = conditions.length === 0 ? "" : `WHERE ${conditions.join(" AND ")}`;
    const rows = this.#db.all(`SELECT * FROM events ${where} ORDER BY sequence DESC LIMIT ?`, ...values, limit);
    return rows.reverse().map(recordOf);
  }

  get(sequence: number): EventRecord | undefined {
    const row = this.#db.get("SELECT * FROM events WHERE sequence = ?", sequence);
    return row && recordOf(row);
  }
}

function recordOf(row: Row): EventRecord {
  return {
    sequence: Number(row["sequence"]),
    objectKind: row["object_kind"] as EventRecord["objectKind"],
    objectName: row["object_name"] as string,
    type: Number(row["type"]) as EventType,
    reason: row["reason"] as string,
    message: row["message"] as string,
    count: Number(row["count"]),
    time: new Date(Number(row["time"])),
  };
}
