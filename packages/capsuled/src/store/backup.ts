/** Copies of the database for a version that is older than the one that is about to change it. */
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { backup, DatabaseSync } from "node:sqlite";
import { mayCrash } from "../crash-point.ts";
import { syncDirectory } from "../durable.ts";
import { migrations } from "./migrations.ts";

/** The newest schema that this version knows. */
export const knownSchema = migrations.length;

/** The schema that a database has; 0 for one that is not there. */
export function schemaOf(path: string): number {
  const db = new DatabaseSync(path, { timeout: 5_000 });
  try {
    return Number((db.prepare("PRAGMA user_version").get() as { user_version: number }).user_version);
  } finally {
    db.close();
  }
}

/** Copies a database that nobody writes to. The target is whole and on the disk when this resolves, or not there. */
export async function backUp(path: string, target: string): Promise<void> {
  const scratch = `${target}.new`;
  await rm(scratch, { force: true });
  const db = new DatabaseSync(path, { timeout: 5_000 });
  try {
    await backup(db, scratch);
  } finally {
    db.close();
  }
  const file = await open(scratch, "r+");
  await file.chmod(0o600);
  await file.sync();
  await file.close();
  await rename(scratch, target);
  await syncDirectory(dirname(target));
  mayCrash();
}

/**
 * Puts a copy in the place of the database, which nobody has open. A power cut leaves the copy where it was, and this is
 * done again, or the copy in its new place.
 */
export async function putBack(copy: string, path: string): Promise<void> {
  // A log of the other database must not be replayed into this one.
  for (const beside of [`${path}-wal`, `${path}-shm`]) await rm(beside, { force: true });
  await syncDirectory(dirname(path));
  mayCrash();
  await rename(copy, path);
  await syncDirectory(dirname(path));
  mayCrash();
}
