/**
 * What an apply changes, field by field, with the paths of the manifest. Two specs are the same when every field means
 * the same: a default written out is no change.
 */
import { clone, toJson } from "@bufbuild/protobuf";
import {
  ImagePullPolicy,
  NetworkMode,
  Protocol,
  RestartPolicy,
  type VolumeSpec,
  VolumeSpecSchema,
  type WorkloadSpec,
  WorkloadSpecSchema,
} from "@capsule/api";

import { defaultPool } from "../storage/layout.ts";
import { defaultKeep } from "../storage/volumes/schedule.ts";

export interface Change {
  /** Such as `container.ports[0].hostPort`. */
  readonly path: string;
  /** JSON text; empty when absent. */
  readonly before: string;
  readonly after: string;
}

type Json = unknown;

/** The changes from one spec to another; from `undefined`, every field that is set. Empty when they mean the same. */
export function diffSpecs(before: WorkloadSpec | undefined, after: WorkloadSpec): Change[] {
  const changes: Change[] = [];
  const left = before === undefined ? undefined : toJson(WorkloadSpecSchema, canonical(before));
  compare("", left, toJson(WorkloadSpecSchema, before === undefined ? after : canonical(after)), changes);
  return changes.filter(({ path }) => path !== "name");
}

/** The same for volumes. */
export function diffVolumes(before: VolumeSpec | undefined, after: VolumeSpec): Change[] {
  const changes: Change[] = [];
  const left = before === undefined ? undefined : toJson(VolumeSpecSchema, canonicalVolume(before));
  compare("", left, toJson(VolumeSpecSchema, before === undefined ? after : canonicalVolume(after)), changes);
  return changes.filter(({ path }) => path !== "name");
}

function canonicalVolume(spec: VolumeSpec): VolumeSpec {
  const copy = clone(VolumeSpecSchema, spec);
  copy.pool ||= defaultPool;
  if (copy.snapshotSchedule !== "") copy.snapshotKeep ||= defaultKeep;
  if (copy.filesystem?.ownerUid === 0 && copy.filesystem.ownerGid === 0) delete copy.filesystem;
  return copy;
}

/** The spec with the defaults written out that have another spelling. */
export function canonical(spec: WorkloadSpec): WorkloadSpec {
  const copy = clone(WorkloadSpecSchema, spec);
  const container = copy.kind.value;
  if (container === undefined) return copy;
  container.networkMode ||= NetworkMode.BRIDGE;
  container.restartPolicy ||= RestartPolicy.ALWAYS;
  container.imagePullPolicy ||= ImagePullPolicy.IF_NOT_PRESENT;
  container.hostname ||= copy.name;
  for (const port of container.ports) {
    port.protocol ||= Protocol.TCP;
    port.hostPort ||= port.containerPort;
  }
  return copy;
}

/** Of two messages in their JSON form; `before` is undefined for a creation. */
export function diffJson(before: unknown, after: unknown): Change[] {
  const changes: Change[] = [];
  compare("", before, after, changes);
  return changes;
}

function compare(path: string, before: Json, after: Json, changes: Change[]): void {
  if (before === undefined && after === undefined) return;
  if (isList(before) || isList(after)) {
    const [left, right] = [isList(before) ? before : [], isList(after) ? after : []];
    for (let i = 0; i < Math.max(left.length, right.length); i++) compare(`${path}[${i}]`, left[i], right[i], changes);
    return;
  }
  if (isObject(before) || isObject(after)) {
    const [left, right] = [isObject(before) ? before : {}, isObject(after) ? after : {}];
    for (const key of new Set([...Object.keys(left), ...Object.keys(right)])) {
      compare(joined(path, key), left[key], right[key], changes);
    }
    return;
  }
  if (before !== after) changes.push({ path, before: text(before), after: text(after) });
}

function joined(path: string, key: string): string {
  if (!/^[A-Za-z0-9_]+$/.test(key)) return `${path}["${key}"]`;
  return path === "" ? key : `${path}.${key}`;
}

function text(value: Json): string {
  return value === undefined ? "" : JSON.stringify(value);
}

function isList(value: Json): value is Json[] {
  return Array.isArray(value);
}

function isObject(value: Json): value is Record<string, Json> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
