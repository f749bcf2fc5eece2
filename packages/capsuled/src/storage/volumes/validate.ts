/** Whether a volume's spec can be carried out at all. Pure; finds every fault at once, each with its path in the manifest. */
import type { VolumeSpec } from "@capsule/api";
import type { FieldViolation } from "../../errors.ts";
import { maxVolumeBytes, minVolumeBytes } from "../layout.ts";
import { isSchedule, schedules } from "./schedule.ts";

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const maxKeep = 1_000;
/** An id of Linux that is not the "no id" of chown(2). */
const maxId = 2 ** 32 - 2;

export function isVolumeName(name: string): boolean {
  return LABEL.test(name);
}

export function nameFault(name: string): string {
  return `"${clip(name)}" is no DNS label: 1 to 63 of a-z, 0-9 and "-", no "-" at the ends`;
}

export function validateVolume(spec: VolumeSpec): FieldViolation[] {
  const faults: FieldViolation[] = [];
  const add = (path: string, description: string): void => void faults.push({ path, description });
  if (!isVolumeName(spec.name)) add("name", nameFault(spec.name));
  const sizeFault = sizeFaultOf(spec.sizeBytes);
  if (sizeFault !== undefined) add("sizeBytes", sizeFault);
  const labels = Object.entries(spec.labels);
  if (labels.length > 64) add("labels", `${labels.length} labels; at most 64 are taken`);
  for (const [key, value] of labels.slice(0, 64)) {
    if (key.length < 1 || key.length > 63) add("labels", `label "${clip(key)}": a key has 1 to 63 characters`);
    if (value.length > 256) add(`labels["${clip(key)}"]`, "a value has at most 256 characters");
  }
  if (!isSchedule(spec.snapshotSchedule))
    add("snapshotSchedule", `"${clip(spec.snapshotSchedule)}" is none of ${Object.keys(schedules).join(", ")}`);
  if (spec.snapshotKeep > maxKeep) add("snapshotKeep", `at most ${maxKeep} snapshots are kept by a schedule`);
  if (spec.snapshotKeep > 0 && spec.snapshotSchedule === "")
    add("snapshotKeep", "it belongs to snapshotSchedule, which is not set");
  if (spec.encrypted) add("encrypted", "this version of Capsule has no encryption yet: leave the field out");
  for (const field of ["ownerUid", "ownerGid"] as const) {
    if ((spec.filesystem?.[field] ?? 0) > maxId) add(`filesystem.${field}`, `it is 0 to ${maxId}`);
  }
  return faults;
}

/** What is wrong with a size; undefined when nothing is. */
export function sizeFaultOf(sizeBytes: bigint): string | undefined {
  if (sizeBytes === 0n) return "a size is needed, such as 2GiB";
  if (sizeBytes < BigInt(minVolumeBytes)) return `${sizeBytes} bytes are less than a volume has: 16MiB`;
  if (sizeBytes > BigInt(maxVolumeBytes)) return `${sizeBytes} bytes are more than a volume can have: 16TiB`;
  return undefined;
}

function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
