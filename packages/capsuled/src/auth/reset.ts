/**
 * The way back in for somebody who stands at the machine: a file on /perm, written from outside, removes every key at the
 * next boot. Only a fresh file counts, so that a forgotten one, or one in a restored backup, opens nothing.
 */
import { rm, stat } from "node:fs/promises";
import { EventType } from "@capsule/api";
import type { Logger } from "pino";
import type { Store } from "../store/store.ts";

/** A file older than this at boot does not count, in milliseconds. */
const freshMs = 60 * 60 * 1000;

/** To be called at the first start of a boot only. Removes the file in any case. */
export async function resetKeysIfAsked(store: Store, path: string, now: Date, log: Logger): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) return;
  const age = now.getTime() - found.mtimeMs;
  const isFresh = age >= -freshMs && age <= freshMs;
  if (isFresh) {
    const removed = store.keys.removeAll();
    const message = `${removed} keys were removed, as ${path} asked; the claim window is open`;
    log.warn(message);
    store.events.add({
      objectKind: "capsule",
      objectName: "",
      type: EventType.WARNING,
      reason: "KeysReset",
      message,
      time: now,
    });
  } else log.warn({ path, ageMs: age }, "the file that asks to remove all keys is too old: ignored");
  await rm(path);
}
