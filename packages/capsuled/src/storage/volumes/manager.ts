/**
 * What the operator may do to the wanted volumes: each call is checked whole, then written in one transaction. Carrying it
 * out is the controller's work, which hears of it through the store.
 */
import { clone } from "@bufbuild/protobuf";
import { type VolumeSpec, VolumeSpecSchema } from "@capsule/api";
import { CapsuleError, type FieldViolation } from "../../errors.ts";
import type { Store } from "../../store/store.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import { defaultPool } from "../layout.ts";
import type { Pools } from "../pool/pools.ts";
import { sizeFaultOf, validateVolume } from "./validate.ts";

/** Most volumes on a capsule. */
const maxVolumes = 10_000;

export interface VolumeManagerOptions {
  readonly store: Store;
  readonly pools: Pools;
  /** Throws `exhausted` when a pool must not promise so many bytes more (pool/watch.ts). */
  readonly refuseOvercommit?: (pool: string, moreBytes: number) => void;
  readonly now?: () => Date;
}

export class VolumeManager {
  readonly #store: Store;
  readonly #pools: Pools;
  readonly #refuseOvercommit: (pool: string, moreBytes: number) => void;
  readonly #now: () => Date;

  constructor({ store, pools, refuseOvercommit = () => undefined, now = () => new Date() }: VolumeManagerOptions) {
    this.#store = store;
    this.#pools = pools;
    this.#refuseOvercommit = refuseOvercommit;
    this.#now = now;
  }

  /** Every fault of a spec that can be told without the store. */
  faultsOf(spec: VolumeSpec): FieldViolation[] {
    const faults = validateVolume(spec);
    if (this.#pools.find(spec.pool) === undefined) {
      const known = this.#pools.list().map(({ name }) => name);
      faults.push({ path: "pool", description: `there is no such pool; there is ${known.join(", ")}` });
    }
    return faults;
  }

  /**
   * Makes a volume wanted, or changes it. To be called inside the transaction of the apply, with a spec without faults.
   * Throws `conflict` while one of its name is being deleted, `invalid` for what cannot change.
   */
  applyOne(spec: VolumeSpec): { readonly before: VolumeSpec | undefined; readonly record: VolumeRecord } {
    const { volumes } = this.#store;
    const before = volumes.get(spec.name);
    if (before === undefined) return { before: undefined, record: this.#insert(spec) };
    if (before.deleting) throw beingDeleted(spec.name);
    const faults = changeFaults(before.spec, spec);
    if (faults.length > 0) throw invalid(spec.name, faults);
    this.#refuseGrowth(before, spec);
    return { before: before.spec, record: volumes.updateSpec(spec, this.#now()) };
  }

  /** Throws `conflict` when there is one of its name, `invalid` with every fault. */
  create(spec: VolumeSpec): VolumeRecord {
    return this.#store.transaction(() => {
      this.checkNew(spec);
      return this.#insert(spec);
    });
  }

  /** A volume whose disk is made already. Throws as `create`. */
  adopt(spec: VolumeSpec, diskUid: string): VolumeRecord {
    return this.#store.transaction(() => {
      this.checkNew(spec);
      return this.#insert(spec, { uid: diskUid });
    });
  }

  /** Whether a volume of this spec could be made. Throws as `create`. */
  checkNew(spec: VolumeSpec): void {
    const faults = this.faultsOf(spec);
    if (faults.length > 0) throw invalid(spec.name, faults);
    const before = this.#store.volumes.get(spec.name);
    if (before?.deleting === true) throw beingDeleted(spec.name);
    if (before !== undefined) throw exists(spec.name);
  }

  /** Throws `invalid` for a size that is none or is smaller than now. */
  resize(name: string, sizeBytes: bigint): VolumeRecord {
    return this.#store.transaction(() => {
      const before = this.#changeable(name);
      const spec = clone(VolumeSpecSchema, before.spec);
      spec.sizeBytes = sizeBytes;
      const fault = sizeFaultOf(sizeBytes);
      const faults =
        fault === undefined ? changeFaults(before.spec, spec) : [{ path: "sizeBytes", description: fault }];
      if (faults.length > 0) throw invalid(name, faults);
      this.#refuseGrowth(before, spec);
      return this.#store.volumes.updateSpec(spec, this.#now());
    });
  }

  /**
   * Marks volumes for deletion. Throws `notFound` naming all that do not exist and `precondition` naming those who mount
   * one, or that one has snapshots, and marks none then. `force` wants their users stopped instead, `withSnapshots` the
   * snapshots deleted too.
   */
  delete(names: readonly string[], { force = false, withSnapshots = false } = {}): void {
    if (names.length === 0) throw new CapsuleError("invalid", "No volume was named.");
    const { volumes, volumeClaims, snapshots, workloads } = this.#store;
    this.#store.transaction(() => {
      const missing = names.filter((name) => volumes.get(name) === undefined);
      if (missing.length > 0) throw noVolume(missing);
      for (const name of new Set(names)) {
        const users = volumeClaims.users(name);
        if (users.length > 0 && !force)
          throw inUse(
            name,
            users.map((user) => user.name),
          );
        const kept = snapshots.of(this.get(name).uid);
        if (kept.length > 0 && !withSnapshots)
          throw hasSnapshots(
            name,
            kept.map((one) => one.name),
          );
        for (const { uid } of kept) snapshots.markDeleting(uid);
        for (const user of users) {
          if (workloads.get(user.name)?.desired === "running") workloads.setDesired(user.name, "stopped", this.#now());
        }
        volumes.markDeleting(name, this.#now());
      }
    });
  }

  /** Throws `invalid` for a schedule that is none. */
  setSchedule(name: string, snapshotSchedule: string, snapshotKeep: number): VolumeRecord {
    return this.#store.transaction(() => {
      const spec = clone(VolumeSpecSchema, this.#changeable(name).spec);
      Object.assign(spec, { snapshotSchedule, snapshotKeep });
      const faults = validateVolume(spec);
      if (faults.length > 0) throw invalid(name, faults);
      return this.#store.volumes.updateSpec(spec, this.#now());
    });
  }

  /** Throws `notFound`. */
  get(name: string): VolumeRecord {
    const record = this.#store.volumes.get(name);
    if (record === undefined) throw noVolume([name]);
    return record;
  }

  #changeable(name: string): VolumeRecord {
    const record = this.get(name);
    if (record.deleting) throw beingDeleted(name);
    return record;
  }

  #refuseGrowth(before: VolumeRecord, { sizeBytes }: VolumeSpec): void {
    const more = Number(sizeBytes - before.spec.sizeBytes);
    if (more > 0) this.#refuseOvercommit(before.pool, more);
  }

  #insert(spec: VolumeSpec, disk?: { readonly uid: string }): VolumeRecord {
    const { volumes } = this.#store;
    if (volumes.list().length >= maxVolumes)
      throw new CapsuleError("exhausted", `The capsule has ${maxVolumes} volumes, the most it takes; delete some.`);
    this.#refuseOvercommit(this.#pools.get(spec.pool).name, Number(spec.sizeBytes));
    return volumes.insert(spec, this.#pools.get(spec.pool).name, this.#now(), disk);
  }
}

/** What a new spec would change that cannot be changed. */
function changeFaults(before: VolumeSpec, after: VolumeSpec): FieldViolation[] {
  const faults: FieldViolation[] = [];
  if (after.sizeBytes < before.sizeBytes) {
    const description = `${after.sizeBytes} bytes are less than it has (${before.sizeBytes}): a volume does not shrink, for its filesystem cannot while it is used. Make a smaller one and copy`;
    faults.push({ path: "sizeBytes", description });
  }
  if ((after.pool || defaultPool) !== (before.pool || defaultPool))
    faults.push({
      path: "pool",
      description: `it is in pool ${before.pool || defaultPool}, and a volume stays in its pool`,
    });
  const [was, is] = [before.filesystem, after.filesystem];
  if ((was?.ownerUid ?? 0) !== (is?.ownerUid ?? 0) || (was?.ownerGid ?? 0) !== (is?.ownerGid ?? 0))
    faults.push({ path: "filesystem", description: "it says how a new filesystem is made, and this one exists" });
  return faults;
}

function invalid(name: string, violations: readonly FieldViolation[]): CapsuleError {
  const [first] = violations;
  return new CapsuleError("invalid", `Volume "${name.slice(0, 80)}": ${first?.path}: ${first?.description}`, {
    reason: "INVALID_SPEC",
    violations,
  });
}

export function noVolume(names: readonly string[]): CapsuleError {
  const [first = ""] = names;
  const text =
    names.length === 1
      ? `No volume has the name "${first}"`
      : `No volumes have the names ${names.map((name) => `"${name}"`).join(", ")}`;
  return new CapsuleError("notFound", `${text}. \`capsulectl volume list\` shows them.`, {
    reason: "NO_VOLUME",
    metadata: { name: first },
  });
}

function exists(name: string): CapsuleError {
  return new CapsuleError(
    "conflict",
    `There is a volume "${name}" already. \`capsulectl volume get ${name}\` shows it.`,
    {
      reason: "VOLUME_EXISTS",
      metadata: { name },
    },
  );
}

function beingDeleted(name: string): CapsuleError {
  return new CapsuleError("conflict", `Volume "${name}" is being deleted. Try again when it is gone.`, {
    reason: "BEING_DELETED",
    metadata: { name },
  });
}

function hasSnapshots(name: string, snapshots: readonly string[]): CapsuleError {
  const some = snapshots.slice(0, 3).join(", ") + (snapshots.length > 3 ? " …" : "");
  return new CapsuleError(
    "precondition",
    `Volume "${name}" has ${snapshots.length} snapshots (${some}), which would go with it. Use --snapshots if that is meant.`,
    { reason: "VOLUME_HAS_SNAPSHOTS", metadata: { volume: name } },
  );
}

function inUse(name: string, users: readonly string[]): CapsuleError {
  return new CapsuleError(
    "precondition",
    `Volume "${name}" is mounted by ${users.map((user) => `workload "${user}"`).join(", ")}. Change or delete that first, or use --force, which stops it.`,
    { reason: "VOLUME_IN_USE", metadata: { volume: name, workload: users[0] ?? "" } },
  );
}
