import { readFileSync } from "node:fs";

/** What became of `/perm` at this boot (storage/substrate/main.ts). */
export interface StorageStatus {
  /** "degraded": nothing that is written now outlives a reboot. */
  readonly state: "ready" | "degraded";
  /** Why, for people; empty when ready. */
  readonly message: string;
  /** The filesystem of `/perm` is damaged, and a repair may help. */
  readonly repairable?: boolean;
}

/** In a namespace `/perm` is the host's: ready. */
export function readStorageStatus(path = "/run/capsule/storage.json"): StorageStatus {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as StorageStatus;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { state: "ready", message: "" };
    throw error;
  }
}
