import { Role } from "@capsule/api";
import { CapsuleError } from "../errors.ts";
import type { ChangeFeed } from "./changes.ts";
import type { Database, Row } from "./database.ts";

/** An enrolled key. */
export interface KeyRecord {
  readonly id: string;
  readonly name: string;
  readonly role: Role;
  /** 32 raw bytes, Ed25519. */
  readonly publicKey: Uint8Array;
  readonly createdAt: Date;
  readonly lastUsedAt: Date | undefined;
}

export class KeyRepository {
  readonly #db: Database;
  readonly #changes: ChangeFeed;

  constructor(db: Database, changes: ChangeFeed) {
    this.#db = db;
    this.#changes = changes;
  }

  list(): KeyRecord[] {
    return this.#db.all("SELECT * FROM keys ORDER BY created_at, id").map(recordOf);
  }

  get(id: string): KeyRecord | undefined {
    const row = this.#db.get("SELECT * FROM keys WHERE id = ?", id);
    return row && recordOf(row);
  }

  /** The same key with the same name and role again changes nothing. */
  add(key: Omit<KeyRecord, "lastUsedAt">): KeyRecord {
    return this.#db.transaction(() => {
      const sameId = this.get(key.id);
      if (sameId !== undefined && sameId.name === key.name && sameId.role === key.role) return sameId;
      if (sameId !== undefined) {
        throw new CapsuleError(
          "conflict",
          `This key is enrolled already as "${sameId.name}". Remove it first to enrol it with another name or role.`,
          { reason: "KEY_EXISTS", metadata: { id: key.id, name: sameId.name } },
        );
      }
      if (this.#db.get("SELECT 1 FROM keys WHERE name = ?", key.name) !== undefined) {
        throw new CapsuleError("conflict", `Another key has the name "${key.name}". Choose another name.`, {
          reason: "KEY_NAME_TAKEN",
          metadata: { name: key.name },
        });
      }
      this.#db.run(
        "INSERT INTO keys (id, name, role, public_key, created_at) VALUES (?, ?, ?, ?, ?)",
        key.id,
        key.name,
        key.role,
        key.publicKey,
        key.createdAt.getTime(),
      );
      this.#publish();
      return { ...key, lastUsedAt: undefined };
    });
  }

  /** Enrols the first key; refused when there is one, so that two claims at once cannot both win. */
  claim(key: Omit<KeyRecord, "lastUsedAt">): KeyRecord {
    return this.#db.transaction(() => {
      if (this.#db.get("SELECT 1 FROM keys") !== undefined) {
        throw new CapsuleError(
          "precondition",
          "This capsule is adopted already. Ask its administrator to add your key.",
          {
            reason: "ALREADY_ADOPTED",
          },
        );
      }
      return this.add(key);
    });
  }

  /** Removes by id or name. The last key of an administrator is refused: nobody could add another. */
  remove(idOrName: string): KeyRecord {
    return this.#db.transaction(() => {
      const key = this.list().find(({ id, name }) => id === idOrName || name === idOrName);
      if (key === undefined) {
        throw new CapsuleError(
          "notFound",
          `No key has the id or name "${idOrName}". \`capsulectl key list\` shows them.`,
        );
      }
      if (key.role === Role.ADMIN && this.list().filter(({ role }) => role === Role.ADMIN).length === 1) {
        throw new CapsuleError(
          "precondition",
          `"${key.name}" is the last key of an administrator and cannot be removed. Add another admin key first.`,
          { reason: "LAST_ADMIN_KEY" },
        );
      }
      this.#db.run("DELETE FROM keys WHERE id = ?", key.id);
      this.#publish();
      return key;
    });
  }

  /** Forgets every key: the reset by a file on /perm. */
  removeAll(): number {
    return this.#db.transaction(() => {
      this.#publish();
      return this.#db.run("DELETE FROM keys");
    });
  }

  /** Notes that a key was used. The caller limits how often. */
  touch(id: string, now: Date): void {
    this.#db.run("UPDATE keys SET last_used_at = ? WHERE id = ?", now.getTime(), id);
  }

  #publish(): void {
    this.#db.afterCommit(() => this.#changes.publish({ kind: "keys" }));
  }
}

function recordOf(row: Row): KeyRecord {
  const lastUsedAt = row["last_used_at"];
  return {
    id: row["id"] as string,
    name: row["name"] as string,
    role: Number(row["role"]) as Role,
    publicKey: row["public_key"] as Uint8Array,
    createdAt: new Date(Number(row["created_at"])),
    lastUsedAt: lastUsedAt === null || lastUsedAt === undefined ? undefined : new Date(Number(lastUsedAt)),
  };
}
