/**
 * What a runtime driver is asked to run: a workload's spec with every default filled in and every reference resolved.
 * Drivers know this and nothing of the API or the store.
 */

export interface Instance {
  /** Workload uid: the runtime's id of it. */
  readonly uid: string;
  readonly name: string;
  /** Generation of the spec that this is; a running instance of another generation has drifted. */
  readonly generation: number;
  /** Full reference, such as `docker.io/library/busybox:1`, and the digest that it had when resolved. */
  readonly image: { readonly reference: string; readonly digest: string };
  /** Directory of the capsule that is its root, read-only and without what is mounted below, instead of the image's. */
  readonly rootDir?: string;
  /** Replaces the image's entrypoint when not empty. */
  readonly command: readonly string[];
  readonly args: readonly string[];
  /** Added to the image's. */
  readonly env: ReadonlyMap<string, string>;
  readonly workingDir: string | undefined;
  readonly user: string | undefined;
  readonly hostname: string;
  readonly network: "bridge" | "host" | "none";
  readonly limits: Limits;
  readonly stopSignal: string | undefined;
  /** Files made by the capsule and mounted read-only: path inside → path on the capsule. */
  readonly files: ReadonlyMap<string, string>;
  readonly mounts: readonly InstanceMount[];
  /** Directory for its logs, and their limits. */
  readonly logs: { readonly dir: string; readonly maxBytes: number; readonly maxFiles: number };
  readonly container: ContainerOptions;
  /** Undefined for a container. */
  readonly machine?: MachineOptions;
}

/** What only microVMs have. */
export interface MachineOptions {
  readonly backend: "qemu" | "firecracker";
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** Of the root disk; 0: as its image's base. */
  readonly diskBytes: number;
  /** The root disk stays when the instance is replaced. */
  readonly persistentRoot: boolean;
  /** In the order of `mounts`' sources, each once. */
  readonly volumes: readonly InstanceDisk[];
  /** Boots this instead of the image; the first volume is the root disk then. */
  readonly ownKernel: BootFiles | undefined;
}

/** What a machine with an own kernel boots: files in a directory of their own on the capsule. */
export interface BootFiles {
  readonly dir: string;
  readonly kernel: string;
  readonly initramfs: string | undefined;
  readonly args: readonly string[];
}

/** A volume as a disk of a machine. */
export interface InstanceDisk {
  readonly volumeUid: string;
  /** A file or a block device of the capsule. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Directories below its root that are mounted. */
  readonly subPaths: readonly string[];
}

export interface Limits {
  /** 0 is unlimited, in each. */
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  readonly pidsMax: number;
}

export interface InstanceMount {
  /** Directory on the capsule. */
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
}

/** What only containers have. */
export interface ContainerOptions {
  /** Names with or without CAP_, or ALL. */
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly readOnlyRoot: boolean;
  readonly sysctls: ReadonlyMap<string, string>;
  readonly userNamespace: boolean;
  readonly privileged: boolean;
  readonly tmpfs: readonly { readonly target: string; readonly sizeBytes: number }[];
  readonly shmBytes: number;
  readonly init: boolean;
  /**
   * Has the capsule's own processes, IPC, host name, control groups and devices, and its mounts at /host, /perm and /run, as
   * they come and go. Only with the network `host` and `privileged`.
   */
  readonly sharesMachine: boolean;
}
