import {
  CheckVolumeResponseSchema,
  ListVolumesResponseSchema,
  RepairVolumeResponseSchema,
  type Volume,
  VolumePhase,
  VolumeSchema,
} from "@capsule/api";
import { defaultWaitMs } from "../duration.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { age, bytes, type Column, labelsOf, note, print, printDone, printMessage, say } from "../output.ts";
import { withCapsule } from "../session.ts";
import { numberOption, sizeOption } from "../size.ts";
import { waitForVolume, waitUntilVolumesGone } from "../volume-wait.ts";

const columns: Column<Volume>[] = [
  { title: "NAME", value: ({ spec }) => spec?.name ?? "" },
  { title: "PHASE", value: ({ status }) => VolumePhase[status?.phase ?? 0] ?? "" },
  { title: "SIZE", value: ({ spec }) => bytes(spec?.sizeBytes ?? 0n), right: true },
  { title: "USED", value: ({ status }) => bytes(status?.usedBytes ?? 0n), right: true },
  { title: "USED BY", value: ({ status }) => status?.usedBy.join(", ") || "-" },
  { title: "AGE", value: ({ createdAt }) => age(createdAt), right: true },
  { title: "POOL", value: ({ spec }) => spec?.pool || "default", wide: true },
  { title: "MOUNTED", value: ({ status }) => (status?.mounted === true ? "yes" : "no"), wide: true },
  { title: "UID", value: ({ uid }) => uid, wide: true },
  { title: "MESSAGE", value: ({ status }) => status?.message ?? "" },
];

export interface CreateOptions {
  readonly size: string;
  readonly label?: string[];
  readonly pool?: string;
  readonly owner?: string;
  readonly snapshots?: string;
  readonly keep?: string;
  readonly wait: boolean;
}

export async function create(
  { capsule: chosen, format }: Globals,
  name: string,
  options: CreateOptions,
): Promise<void> {
  const spec = {
    name,
    sizeBytes: sizeOption(options.size),
    pool: options.pool ?? "",
    labels: labelsOf(options.label ?? []),
    snapshotSchedule: options.snapshots ?? "",
    snapshotKeep: numberOption("--keep", options.keep),
    ...ownerOf(options.owner),
  };
  await withCapsule(chosen, async (capsule) => {
    const { volume } = await capsule.volumes.createVolume({ spec });
    const made = options.wait ? await waitForVolume(capsule, name, isReady, defaultWaitMs) : volume;
    if ((format === "json" || format === "yaml") && made !== undefined) await printMessage(format, VolumeSchema, made);
    else await printDone(format, [{ kind: "volume", name, action: options.wait ? "created" : "is being made" }]);
  });
}

export async function list(
  { capsule: chosen, format }: Globals,
  names: string[],
  options: { label?: string[] },
): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const response = await volumes.listVolumes({ names, labels: labelsOf(options.label ?? []) });
    await print(format, ListVolumesResponseSchema, response, response.volumes, columns);
  });
}

export async function get({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const { volume } = await volumes.getVolume({ name });
    if (volume !== undefined) await printMessage(format === "json" ? "json" : "yaml", VolumeSchema, volume);
  });
}

export async function resize(
  { capsule: chosen, format }: Globals,
  name: string,
  size: string,
  { wait }: { wait: boolean },
): Promise<void> {
  const sizeBytes = sizeOption(size);
  await withCapsule(chosen, async (capsule) => {
    await capsule.volumes.resizeVolume({ name, sizeBytes });
    if (wait) {
      const hasGrown = ({ status }: Volume): boolean =>
        status?.phase === VolumePhase.READY && status.sizeBytes >= sizeBytes && !/^Growing/.test(status.message);
      const { status } = await waitForVolume(capsule, name, hasGrown, defaultWaitMs);
      if (/grows when/.test(status?.message ?? "")) note(`${name}: ${status?.message}`);
    }
    await printDone(format, [{ kind: "volume", name, action: wait ? "resized" : "is being resized" }]);
  });
}

export async function remove(
  { capsule: chosen, format }: Globals,
  names: string[],
  { force = false, snapshots = false, wait }: { force?: boolean; snapshots?: boolean; wait: boolean },
): Promise<void> {
  await withCapsule(chosen, async (capsule) => {
    await capsule.volumes.deleteVolumes({ names, force, snapshots });
    if (wait) await waitUntilVolumesGone(capsule, names, defaultWaitMs);
    const action = wait ? "deleted" : "is being deleted";
    await printDone(
      format,
      names.map((name) => ({ kind: "volume", name, action })),
    );
  });
}

/** e2fsck of a large volume takes its time. */
const checkMs = 12 * 3_600_000;

export async function check({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  const { clean } = await withCapsule(chosen, async ({ volumes }) => {
    const response = await volumes.checkVolume({ name }, { timeoutMs: checkMs });
    if (format === "json" || format === "yaml") await printMessage(format, CheckVolumeResponseSchema, response);
    else say(response.clean ? `volume/${name} is clean` : response.report);
    return response;
  });
  if (!clean) throw new CliError(`volume "${name}" is damaged`);
}

export async function repair({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  await withCapsule(chosen, async ({ volumes }) => {
    const response = await volumes.repairVolume({ name }, { timeoutMs: checkMs });
    if (format === "json" || format === "yaml") return await printMessage(format, RepairVolumeResponseSchema, response);
    if (response.report !== "") say(response.report);
    const action = response.changed ? "repaired" : "had nothing to repair";
    await printDone(format, [
      { kind: "volume", name, action: `${action}; what it held before is snapshot ${response.before}` },
    ]);
  });
}

function isReady({ status }: Volume): boolean {
  return status?.phase === VolumePhase.READY;
}

function ownerOf(text: string | undefined): { filesystem?: { ownerUid: number; ownerGid: number } } {
  if (text === undefined) return {};
  const match = /^([0-9]{1,10})(?::([0-9]{1,10}))?$/.exec(text);
  if (match === null)
    throw new CliError(`--owner ${text}: numbers such as 1000 or 1000:1000 are needed`, exitCode.usage);
  const ownerUid = Number(match[1]);
  return { filesystem: { ownerUid, ownerGid: match[2] === undefined ? ownerUid : Number(match[2]) } };
}
