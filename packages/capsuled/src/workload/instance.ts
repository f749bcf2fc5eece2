/** From a workload's record to what its runtime driver is asked to run. Pure. */
import { type ContainerSpec, type DnsConfig, MicroVmBackend, type MicroVmSpec, NetworkMode } from "@capsule/api";
import { CapsuleError } from "../errors.ts";
import type {
  BootFiles,
  ContainerOptions,
  Instance,
  InstanceDisk,
  InstanceMount,
  MachineOptions,
} from "../runtime/instance.ts";
import type { WorkloadRecord } from "../store/workloads.ts";

const mib = 1024 * 1024;

export type NetworkKind = "bridge" | "host" | "none";

/** What other parts ask of a spec, with its defaults filled in. */
export interface Settings {
  readonly image: string;
  readonly network: NetworkKind;
  readonly hostname: string;
  readonly dns: DnsConfig | undefined;
  readonly stopTimeoutMs: number;
  readonly stopSignal: string | undefined;
}

/** The part of a record that is its kind's. Throws `unimplemented` for a kind that this version does not run. */
export function partOf(record: Pick<WorkloadRecord, "name" | "spec">): ContainerSpec | MicroVmSpec {
  const { kind } = record.spec;
  if (kind.case !== undefined) return kind.value;
  throw new CapsuleError("unimplemented", `Workload "${record.name}" is of a kind that this version does not run.`);
}

export function settingsOf(record: Pick<WorkloadRecord, "name" | "spec">): Settings {
  const spec = partOf(record);
  return {
    image: spec.image,
    network: networkOf(spec.networkMode),
    hostname: spec.hostname === "" ? record.name : spec.hostname,
    dns: spec.dns,
    stopTimeoutMs:
      spec.stopTimeout === undefined
        ? 10_000
        : Number(spec.stopTimeout.seconds) * 1000 + Math.floor(spec.stopTimeout.nanos / 1e6),
    stopSignal: orUndefined(spec.stopSignal),
  };
}

/** What is made for an instance before it is: files and directories of the capsule. */
export interface Prepared {
  readonly image: { readonly reference: string; readonly digest: string };
  /** Path inside → path on the capsule. */
  readonly files: ReadonlyMap<string, string>;
  readonly mounts: readonly InstanceMount[];
  /** Of a microVM. */
  readonly volumes?: readonly InstanceDisk[];
  readonly ownKernel?: BootFiles | undefined;
  readonly logDir: string;
}

export function instanceOf(record: WorkloadRecord, prepared: Prepared): Instance {
  const { image, files, mounts, logDir, volumes = [], ownKernel } = prepared;
  const spec = partOf(record);
  const settings = settingsOf(record);
  return {
    uid: record.uid,
    name: record.name,
    generation: record.generation,
    image,
    command: spec.command,
    args: spec.args,
    env: new Map(spec.env.map(({ name, value }) => [name, value])),
    workingDir: orUndefined(spec.workingDir),
    user: orUndefined(spec.user),
    hostname: settings.hostname,
    network: settings.network,
    limits: {
      cpuMillis: spec.resources?.cpuMillis ?? 0,
      memoryBytes: (spec.resources?.memoryMib ?? 0) * mib,
      pidsMax: spec.resources?.pidsMax || 4096,
    },
    stopSignal: settings.stopSignal,
    files,
    mounts,
    logs: {
      dir: logDir,
      maxBytes: Number(spec.logs?.maxBytes ?? 0n) || 10 * mib,
      maxFiles: spec.logs?.maxFiles || 3,
    },
    container: spec.$typeName === "capsule.v1.ContainerSpec" ? containerOptions(spec) : asContainer,
    ...(spec.$typeName === "capsule.v1.MicroVmSpec" ? { machine: machineOptions(spec, volumes, ownKernel) } : {}),
  };
}

function containerOptions(spec: ContainerSpec): ContainerOptions {
  return {
    addCapabilities: spec.capabilities?.add ?? [],
    dropCapabilities: spec.capabilities?.drop ?? [],
    readOnlyRoot: spec.readOnlyRoot,
    sysctls: new Map(Object.entries(spec.sysctls)),
    userNamespace: spec.userNamespace,
    privileged: spec.privileged,
    tmpfs: spec.tmpfs.map(({ mountPath, sizeMib }) => ({ target: mountPath, sizeBytes: (sizeMib || 64) * mib })),
    shmBytes: (spec.shmMib || 64) * mib,
    init: spec.init,
    sharesMachine: false,
  };
}

/** A payload in a microVM is what a container is that sets nothing. */
const asContainer: ContainerOptions = {
  addCapabilities: [],
  dropCapabilities: [],
  readOnlyRoot: false,
  sysctls: new Map(),
  userNamespace: false,
  privileged: false,
  tmpfs: [],
  shmBytes: 64 * mib,
  init: false,
  sharesMachine: false,
};

/** Defaults as the .proto tells them. */
function machineOptions(
  spec: MicroVmSpec,
  volumes: readonly InstanceDisk[],
  ownKernel: BootFiles | undefined,
): MachineOptions {
  return {
    backend: spec.backend === MicroVmBackend.FIRECRACKER ? "firecracker" : "qemu",
    vcpus: spec.vcpus || 1,
    memoryBytes: (spec.memoryMib || 256) * mib,
    diskBytes: Number(spec.diskBytes),
    persistentRoot: spec.persistentRoot,
    volumes,
    ownKernel,
  };
}

/** The network of a container by its mode. */
export function networkOf(mode: NetworkMode): NetworkKind {
  switch (mode) {
    case NetworkMode.UNSPECIFIED:
    case NetworkMode.BRIDGE:
      return "bridge";
    case NetworkMode.HOST:
      return "host";
    case NetworkMode.NONE:
      return "none";
  }
}

function orUndefined(text: string): string | undefined {
  return text === "" ? undefined : text;
}
