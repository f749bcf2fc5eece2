/** What the store tells of itself and of what happened. */
import { stat } from "node:fs/promises";
import { EventType } from "@capsule/api";
import type { Store } from "../../store/store.ts";
import type { Part } from "../part.ts";
import { unlessMissing } from "./files.ts";

const events = 5_000;

export function storeParts(store: Store, databasePath: string): Part[] {
  return [
    {
      name: "store.json",
      collect: async () => {
        const files = await Promise.all(
          ["", "-wal"].map(async (ending): Promise<[string, number | undefined]> => {
            const path = `${databasePath}${ending}`;
            return [path, (await stat(path).catch(unlessMissing))?.size];
          }),
        );
        return `${JSON.stringify({ ...store.facts(), sizeBytes: Object.fromEntries(files) }, undefined, 2)}\n`;
      },
    },
    {
      name: "events.txt",
      limitBytes: 4 * 1024 ** 2,
      collect: async () =>
        store.events
          .newest(events)
          .map(({ time, type, objectKind, objectName, reason, message, count }) => {
            const often = count > 1 ? ` (${count} times)` : "";
            const kind = EventType[type] ?? type;
            return `${time.toISOString()} ${kind} ${objectKind}/${objectName} ${reason}: ${message}${often}\n`;
          })
          .join(""),
    },
  ];
}
