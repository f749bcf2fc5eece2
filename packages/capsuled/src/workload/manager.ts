/**
 * What the operator may do to the wanted state: each call is checked whole, then written in one transaction. Carrying it
 * out is the reconciler's work, which hears of it through the store.
 */
import { ApplyResult_Action, Protocol, type Resource, type VolumeSpec, type WorkloadSpec } from "@capsule/api";
import { CapsuleError, type FieldViolation } from "../errors.ts";
import type { ImageStore } from "../runtime/images.ts";
import { noVolume, type VolumeManager } from "../storage/volumes/manager.ts";
import type { PortClaim } from "../store/host-ports.ts";
import type { Store } from "../store/store.ts";
import type { VolumeClaim } from "../store/volume-claims.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import { type Change, canonical, diffSpecs, diffVolumes } from "./diff.ts";
import { networkOf } from "./instance.ts";
import { ownKernelOf } from "./own-kernel.ts";
import { validateWorkload } from "./validate.ts";
import type { MachineLimits } from "./validate-machine.ts";

/** Most workloads on a capsule: as many as its subnet has addresses. */
const maxWorkloads = 4_000;

export interface Applied {
  readonly kind: "workload" | "volume";
  readonly name: string;
  readonly action: ApplyResult_Action;
  readonly changes: readonly Change[];
  /** 0 for a creation that is only tried. */
  readonly generation: number;
  readonly wanted: Pick<WorkloadRecord, "desired" | "paused">;
}

export interface ManagerOptions {
  readonly store: Store;
  readonly images: Pick<ImageStore, "normalize">;
  readonly volumes: VolumeManager;
  readonly machines: MachineLimits;
  /** Gives a workload its addresses; called inside the transaction. */
  readonly allocate: (uid: string) => void;
  readonly now?: () => Date;
}

/** Thrown to undo a transaction that was only a trial. */
class DryRun extends Error {}

export class WorkloadManager {
  readonly #store: Store;
  readonly #images: Pick<ImageStore, "normalize">;
  readonly #volumes: VolumeManager;
  readonly #machines: MachineLimits;
  readonly #allocate: (uid: string) => void;
  readonly #now: () => Date;

  constructor({ store, images, volumes, machines, allocate, now = () => new Date() }: ManagerOptions) {
    this.#store = store;
    this.#images = images;
    this.#volumes = volumes;
    this.#machines = machines;
    this.#allocate = allocate;
    this.#now = now;
  }

  /**
   * Makes the resources the wanted state, all or none: volumes first, for workloads to mount. A dry run goes the same way and is undone, so it
   * finds the same faults. Throws `invalid` with every fault, `conflict` for a port or a volume that is taken or a resource
   * that is being deleted, `notFound` for a volume that nobody has made, `exhausted` when the capsule is full.
   */
  apply(resources: readonly Resource[], dryRun: boolean): Applied[] {
    this.#check(resources);
    const results: Applied[] = [];
    try {
      this.#store.transaction(() => {
        for (const [i, { kind }] of resources.entries())
          if (kind.case === "volume") results[i] = this.#applyVolume(kind.value);
        const specs = resources.flatMap(({ kind }, i) => (kind.case === "workload" ? [{ i, spec: kind.value }] : []));
        // A claim may move from one workload of the file to another, whatever their order.
        for (const { spec } of specs) this.#releaseClaims(spec.name);
        for (const { i, spec } of specs) results[i] = this.#applyOne(spec);
        if (dryRun) throw new DryRun();
      });
    } catch (error) {
      if (!(error instanceof DryRun)) throw error;
      return results.map((one) => (one.action === ApplyResult_Action.CREATED ? { ...one, generation: 0 } : one));
    }
    return results;
  }

  /** Marks workloads for deletion. Throws `notFound` naming all that do not exist, and marks none then. */
  delete(names: readonly string[]): void {
    if (names.length === 0) throw new CapsuleError("invalid", "No workload was named.");
    this.#store.transaction(() => {
      const missing = names.filter((name) => this.#store.workloads.get(name) === undefined);
      if (missing.length > 0) throw noWorkload(missing);
      for (const name of new Set(names)) this.#store.workloads.markDeleting(name, this.#now());
    });
  }

  /** Wants it running; one that has ended runs again. Changes nothing when it runs or is about to. */
  start(name: string): WorkloadRecord {
    return this.#store.transaction(() => {
      const record = this.#changeable(name);
      const isUp = record.status.pid !== 0 || record.restartsWanted > record.restartsDone;
      if (record.paused && isUp) return this.#store.workloads.setPaused(name, false, this.#now());
      if (record.desired === "running" && isUp) return record;
      return this.#store.workloads.requestRestart(name, this.#now());
    });
  }

  stop(name: string): WorkloadRecord {
    return this.#store.transaction(() => {
      const record = this.#changeable(name);
      return record.desired === "stopped" ? record : this.#store.workloads.setDesired(name, "stopped", this.#now());
    });
  }

  /** Throws `precondition` for one that does not run. */
  pause(name: string): WorkloadRecord {
    return this.#store.transaction(() => {
      const record = this.#changeable(name);
      if (record.paused) return record;
      if (record.desired === "stopped" || record.status.pid === 0)
        throw new CapsuleError("precondition", `Workload "${name}" does not run: there is nothing to pause.`, {
          reason: "NOT_RUNNING",
        });
      return this.#store.workloads.setPaused(name, true, this.#now());
    });
  }

  /** Changes nothing of one that is not paused. */
  resume(name: string): WorkloadRecord {
    return this.#store.transaction(() => {
      const record = this.#changeable(name);
      return record.paused ? this.#store.workloads.setPaused(name, false, this.#now()) : record;
    });
  }

  restart(name: string): WorkloadRecord {
    return this.#store.transaction(() => {
      this.#changeable(name);
      return this.#store.workloads.requestRestart(name, this.#now());
    });
  }

  /** Throws `notFound`. */
  get(name: string): WorkloadRecord {
    const record = this.#store.workloads.get(name);
    if (record === undefined) throw noWorkload([name]);
    return record;
  }

  #changeable(name: string): WorkloadRecord {
    const record = this.get(name);
    if (record.deleting) throw beingDeleted(name);
    return record;
  }

  /** Finds every fault of every resource before anything is written. */
  #check(resources: readonly Resource[]): void {
    const violations: FieldViolation[] = [];
    const names = new Set<string>();
    if (resources.length === 0) violations.push({ path: "resources", description: "nothing to apply" });
    for (const [i, { kind }] of resources.entries()) {
      const at = `resources[${i}]`;
      if (kind.case === undefined) {
        violations.push({ path: at, description: "it says no kind" });
        continue;
      }
      const faults =
        kind.case === "workload" ? this.#workloadFaults(kind.value) : [...this.#volumes.faultsOf(kind.value)];
      const { name } = kind.value;
      if (names.has(`${kind.case}/${name}`)) faults.push({ path: "name", description: `"${name}" is there twice` });
      names.add(`${kind.case}/${name}`);
      violations.push(...faults.map(({ path, description }) => ({ path: `${at}.${path}`, description })));
    }
    if (violations.length > 0) {
      const [first] = violations;
      const more = violations.length > 1 ? ` (and ${violations.length - 1} more)` : "";
      throw new CapsuleError("invalid", `Nothing was applied: ${first?.path}: ${first?.description}${more}`, {
        reason: "INVALID_SPEC",
        violations: violations.slice(0, 100),
      });
    }
  }

  #workloadFaults(spec: WorkloadSpec): FieldViolation[] {
    const faults = validateWorkload(spec, this.#machines);
    const image = spec.kind.value?.image ?? "";
    return image === "" ? faults : [...faults, ...this.#imageFaults(image)];
  }

  #imageFaults(image: string): FieldViolation[] {
    try {
      this.#images.normalize(image);
      return [];
    } catch (error) {
      if (!(error instanceof CapsuleError) || error.kind !== "invalid") throw error;
      return [{ path: "container.image", description: error.message }];
    }
  }

  #applyVolume(spec: VolumeSpec): Applied {
    const { before } = this.#volumes.applyOne(spec);
    const changes = diffVolumes(before, spec);
    const updated = changes.length === 0 ? ApplyResult_Action.UNCHANGED : ApplyResult_Action.UPDATED;
    const action = before === undefined ? ApplyResult_Action.CREATED : updated;
    return {
      kind: "volume",
      name: spec.name,
      action,
      changes,
      generation: 0,
      wanted: { desired: "running", paused: false },
    };
  }

  #releaseClaims(name: string): void {
    const uid = this.#store.workloads.get(name)?.uid;
    if (uid !== undefined) this.#store.volumeClaims.replace(uid, []);
  }

  /** Throws `conflict` naming the holder, `notFound` for a volume that does not exist. */
  #claimVolumes(uid: string, spec: WorkloadSpec): void {
    const claims = claimsOf(spec);
    const own = ownKernelOf(spec);
    const read = [own?.kernel, own?.initramfs].flatMap((file) => (file === undefined ? [] : [file.volume]));
    const named = new Set([...claims.map(({ volume }) => volume), ...read]);
    const missing = [...named].filter((volume) => this.#store.volumes.get(volume) === undefined);
    if (missing.length > 0) throw noVolume(missing);
    this.#store.volumeClaims.replace(uid, claims);
  }

  #applyOne(spec: WorkloadSpec): Applied {
    const { workloads } = this.#store;
    const before = workloads.get(spec.name);
    if (before?.deleting === true) throw beingDeleted(spec.name);
    const changes = diffSpecs(before?.spec, spec);
    if (before !== undefined && changes.length === 0) {
      this.#claimVolumes(before.uid, spec);
      return result(before, ApplyResult_Action.UNCHANGED, []);
    }
    if (before === undefined && workloads.count() >= maxWorkloads) {
      throw new CapsuleError("exhausted", `The capsule has ${maxWorkloads} workloads, the most it takes; delete some.`);
    }
    const after = before === undefined ? workloads.insert(spec, this.#now()) : workloads.updateSpec(spec, this.#now());
    this.#store.hostPorts.replace(after.uid, portsOf(spec));
    this.#claimVolumes(after.uid, spec);
    const container = spec.kind.value;
    if (container !== undefined && networkOf(container.networkMode) === "bridge") this.#allocate(after.uid);
    else this.#store.addresses.release(after.uid);
    return result(after, before === undefined ? ApplyResult_Action.CREATED : ApplyResult_Action.UPDATED, changes);
  }
}

function result(record: WorkloadRecord, action: ApplyResult_Action, changes: readonly Change[]): Applied {
  return {
    kind: "workload",
    name: record.name,
    action,
    changes,
    generation: record.generation,
    wanted: record,
  };
}

/** The ports of the capsule that a spec claims. */
export function portsOf(spec: WorkloadSpec): PortClaim[] {
  return (canonical(spec).kind.value?.ports ?? []).map(({ protocol, hostPort, hostAddress }) => ({
    protocol: protocol === Protocol.UDP ? "udp" : "tcp",
    port: hostPort,
    hostAddress,
  }));
}

/** The volumes that a spec mounts, read-only when every mount of it is, or has as its root disk. */
export function claimsOf(spec: WorkloadSpec): VolumeClaim[] {
  const claims = new Map<string, boolean>();
  for (const { volumeName, readOnly } of spec.kind.value?.mounts ?? [])
    claims.set(volumeName, (claims.get(volumeName) ?? true) && readOnly);
  const own = ownKernelOf(spec);
  if (own !== undefined) claims.set(own.root, false);
  return [...claims].map(([volume, readOnly]) => ({ volume, readOnly }));
}

function noWorkload(names: readonly string[]): CapsuleError {
  return new CapsuleError(
    "notFound",
    `${names.length === 1 ? `No workload has the name "${names[0]}"` : `No workloads have the names ${names.map((n) => `"${n}"`).join(", ")}`}. \`capsulectl workload list\` shows them.`,
    { reason: "NO_WORKLOAD", metadata: { name: names[0] ?? "" } },
  );
}

function beingDeleted(name: string): CapsuleError {
  return new CapsuleError("conflict", `Workload "${name}" is being deleted. Try again when it is gone.`, {
    reason: "BEING_DELETED",
    metadata: { name },
  });
}
