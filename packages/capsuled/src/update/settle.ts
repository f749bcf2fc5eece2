/** What a start of capsuled owes to the update before it. Runs before the database is opened: it may be another one then. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { backUp, knownSchema, putBack, schemaOf } from "../store/backup.ts";
import type { SlotName } from "./boot-choice.ts";
import { findingOf } from "./plan.ts";
import type { SlotDisk } from "./slots.ts";
import type { Outcome, Pending, SlotRecord, UpdateStateFile } from "./state.ts";

export interface SettleOptions {
  readonly disk: SlotDisk;
  readonly file: UpdateStateFile;
  readonly dir: string;
  readonly databasePath: string;
  /** What runs. */
  readonly image: SlotRecord;
  /** Another one after each start of the machine. */
  readonly bootId: string;
  readonly log: Logger;
}

/** What the operator has not heard of yet, if anything ended. */
export async function settle(options: SettleOptions): Promise<Outcome | undefined> {
  const { disk, file, bootId, log } = options;
  const finding = findingOf({
    running: disk.running,
    isTrial: disk.isTrial,
    choice: await disk.boot.read(),
    pending: file.state.pending,
    failure: await file.failure(),
    bootId,
  });
  log.info({ slot: disk.running, finding }, "slots");
  switch (finding.kind) {
    case "staged":
      return undefined;
    case "trial":
      await keepDatabase(options, finding.pending);
      return undefined;
    case "nothing":
      await noteRunning(options);
      await disk.boot.clear();
      return undefined;
    case "confirmed":
      return await confirmed(options, finding.pending);
    case "rolledBack": {
      await returnDatabase(options);
      const { version, slot } = finding.pending;
      const slots = { ...file.state.slots, [slot]: undefined };
      const last: Outcome = { kind: "rolledBack", version, reason: finding.reason, time: new Date().toISOString() };
      // In this order: without its record, what the boot loader still has of it is cleared at the next start.
      await file.set({ pending: undefined, slots, last });
      await disk.boot.clear();
      await file.forgetFailure();
      await noteRunning(options);
      return last;
    }
    case "notTried": {
      const { version } = finding.pending;
      const reason = "the machine went down before the boot loader was told of it";
      const last: Outcome = { kind: "cancelled", version, reason, time: new Date().toISOString() };
      await file.set({ pending: undefined, last });
      await noteRunning(options);
      return last;
    }
    default:
      return finding satisfies never;
  }
}

/** Writes down that the slot that runs has come to stay; the boot loader knows it already. */
export async function confirmed(options: SettleOptions, { version }: { version: string }): Promise<Outcome> {
  const last: Outcome = { kind: "confirmed", version, reason: "", time: new Date().toISOString() };
  await options.file.set({ pending: undefined, last });
  await options.file.forgetFailure();
  await noteRunning(options);
  return last;
}

/** Where the database of a version is kept that another one is tried after. */
export function databaseCopy(dir: string, slot: SlotName): string {
  return join(dir, `state-${slot}.db`);
}

/** A copy of another trial must not be taken for the one of the next. */
export async function forgetDatabase(dir: string, slot: SlotName): Promise<void> {
  await rm(databaseCopy(dir, slot), { force: true });
}

/** Before a version on trial changes the database: the one before may need it as it was. */
async function keepDatabase(
  { disk, dir, databasePath, log }: SettleOptions,
  pending: Pending | undefined,
): Promise<void> {
  if (!existsSync(databasePath)) return;
  if (pending !== undefined && !existsSync(databaseCopy(dir, pending.from))) {
    await backUp(databasePath, databaseCopy(dir, pending.from));
    log.info({ slot: pending.from }, "the database of the version before was copied");
  }
  // An older version that an operator went back to has left its own.
  const own = databaseCopy(dir, disk.running);
  if (schemaOf(databasePath) > knownSchema && existsSync(own)) {
    await putBack(own, databasePath);
    log.warn({ slot: disk.running }, "the database is the one that this slot left: it cannot read the newer one");
  }
}

/** After a trial that failed. Where it did not change the schema, nothing that was written meanwhile is lost. */
async function returnDatabase({ disk, dir, databasePath, log }: SettleOptions): Promise<void> {
  const own = databaseCopy(dir, disk.running);
  if (!existsSync(own) || (existsSync(databasePath) && schemaOf(databasePath) === schemaOf(own))) return;
  await putBack(own, databasePath);
  log.warn({ slot: disk.running }, "the database is the one from before the update, whose schema is another");
}

/** What runs, and is no trial, is a slot that one can go back to, and its epoch one to stay above. */
async function noteRunning({ disk, file, image }: SettleOptions): Promise<void> {
  const { slots, epochFloor } = file.state;
  const known = slots[disk.running];
  const floor = Math.max(epochFloor, image.epoch);
  if (known?.version === image.version && known.epoch === image.epoch && floor === epochFloor) return;
  await file.set({ epochFloor: floor, slots: { ...slots, [disk.running]: image } });
}
