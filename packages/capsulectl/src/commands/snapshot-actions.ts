import { ListSnapshotsResponseSchema, type Snapshot, SnapshotOrigin, SnapshotSchema } from "@capsule/api";
import type { Globals } from "../globals.ts";
import { age, bytes, type Column, print, printDone, printMessage } from "../output.ts";
import { withCapsule } from "../session.ts";
import { numberOption } from "../size.ts";

const columns: Column<Snapshot>[] = [
  { title: "NAME", value: ({ name }) => name },
  { title: "AGE", value: ({ createdAt }) => age(createdAt), right: true },
  { title: "SIZE", value: ({ sizeBytes }) => bytes(sizeBytes), right: true },
  {
    title: "ALONE",
    value: ({ exclusiveBytes, missing }) =>
      missing ? "MISSING" : exclusiveBytes === undefined ? "-" : bytes(exclusiveBytes),
    right: true,
  },
  { title: "ORIGIN", value: ({ origin }) => (SnapshotOrigin[origin] ?? "").toLowerCase() },
];

export async function take({ capsule: chosen, format }: Globals, volume: string, name = ""): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const { snapshot } = await volumes.createSnapshot({ volume, name });
    if (snapshot === undefined) return;
    if (format === "json" || format === "yaml") await printMessage(format, SnapshotSchema, snapshot);
    else await printDone(format, [{ kind: "snapshot", name: snapshot.name, action: `of volume ${volume} taken` }]);
  });
}

export async function list({ capsule: chosen, format }: Globals, volume: string): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const response = await volumes.listSnapshots({ volume });
    await print(format, ListSnapshotsResponseSchema, response, response.snapshots, columns);
  });
}

export async function remove({ capsule: chosen, format }: Globals, volume: string, names: string[]): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    await volumes.deleteSnapshots({ volume, names });
    await printDone(
      format,
      names.map((name) => ({ kind: "snapshot", name, action: "deleted" })),
    );
  });
}

/** Workloads may take ten minutes to stop. */
const timeoutMs = 15 * 60_000;

export async function restore(
  { capsule: chosen, format }: Globals,
  volume: string,
  snapshot: string,
  { as: newVolume = "", stop = false }: { as?: string; stop?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const { before } = await volumes.restoreSnapshot({ volume, snapshot, newVolume, stop }, { timeoutMs });
    const action =
      newVolume === ""
        ? `restored to ${snapshot}${before === "" ? "" : `; what it held before is snapshot ${before}`}`
        : `made of ${volume}'s snapshot ${snapshot}`;
    await printDone(format, [{ kind: "volume", name: newVolume === "" ? volume : newVolume, action }]);
  });
}

export async function schedule(
  { capsule: chosen, format }: Globals,
  volume: string,
  text: string,
  options: { keep?: string },
): Promise<void> {
  const keep = numberOption("--keep", options.keep);
  await withCapsule(chosen, async ({ volumes }) => {
    await volumes.setSnapshotSchedule({ volume, schedule: text === "none" ? "" : text, keep });
    await printDone(format, [{ kind: "volume", name: volume, action: `snapshots: ${text}` }]);
  });
}
