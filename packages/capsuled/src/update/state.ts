/**
 * What is known of slots and updates, beside what the boot loader keeps: one file on /perm, old or new as a whole. It is no
 * part of state.db, which goes back with a slot that is rolled back.
 */
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { mayCrash } from "../crash-point.ts";
import { writeDurably } from "../durable.ts";
import type { SlotName } from "./boot-choice.ts";

export interface SlotRecord {
  readonly version: string;
  readonly epoch: number;
}

/** A bundle on its way to a slot. */
export interface PushRecord extends SlotRecord {
  /** Hex SHA-256 of the manifest. */
  readonly bundle: string;
  readonly slot: SlotName;
  /** Of the bundle: what is on the disk. */
  readonly receivedBytes: number;
  readonly totalBytes: number;
}

/** How the capsule was before an update; the new version is healthy when it is so again. */
export interface Before {
  readonly hasAddress: boolean;
  /** The next router, if it answered. */
  readonly gateway: string | undefined;
  /** Names of workloads that ran. */
  readonly running: readonly string[];
}

/** A slot that is to be tried, or is. */
export interface Pending extends SlotRecord {
  readonly slot: SlotName;
  /** What is started again when it fails. */
  readonly from: SlotName;
  readonly confirmWithinMs: number;
  /** Confirmed by itself when it was healthy for so long; undefined: an operator does it. */
  readonly autoConfirmMs: number | undefined;
  readonly before: Before;
  /** Of the boot in which it was staged. */
  readonly bootId: string;
}

export interface Outcome {
  readonly kind: "confirmed" | "rolledBack" | "cancelled";
  readonly version: string;
  /** Empty when it was confirmed. */
  readonly reason: string;
  /** RFC 3339. */
  readonly time: string;
}

export interface UpdateState {
  /** The highest epoch that was confirmed; never falls. */
  readonly epochFloor: number;
  /** What is in a slot, whole and read back; none: not to be started. */
  readonly slots: Readonly<Partial<Record<SlotName, SlotRecord>>>;
  readonly push?: PushRecord | undefined;
  readonly pending?: Pending | undefined;
  readonly last?: Outcome | undefined;
}

export const updateDir = "/perm/update";
const empty: UpdateState = { epochFloor: 0, slots: {} };

export class UpdateStateFile {
  readonly #dir: string;
  #state: UpdateState;

  private constructor(dir: string, state: UpdateState) {
    this.#dir = dir;
    this.#state = state;
  }

  static async open(dir: string): Promise<UpdateStateFile> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const text = await readFile(join(dir, "state.json"), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    return new UpdateStateFile(dir, text === undefined ? empty : (JSON.parse(text) as UpdateState));
  }

  get state(): UpdateState {
    return this.#state;
  }

  /** Durable when it resolves. */
  async set(changes: Partial<UpdateState>): Promise<void> {
    const state = { ...this.#state, ...changes };
    await writeDurably(join(this.#dir, "state.json"), `${JSON.stringify(state, undefined, 2)}\n`, 0o600);
    this.#state = state;
    mayCrash();
  }

  /** Why a trial was given up, for the slot that is started next. capsule-init writes the same file (pid1/trial.rs). */
  async noteFailure(reason: string): Promise<void> {
    await writeDurably(join(this.#dir, "failed"), `${reason}\n`, 0o600);
  }

  async failure(): Promise<string> {
    return (await readFile(join(this.#dir, "failed"), "utf8").catch(() => "")).trim();
  }

  async forgetFailure(): Promise<void> {
    await rm(join(this.#dir, "failed"), { force: true });
  }
}
