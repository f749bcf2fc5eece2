/**
 * The OCI runtime specification of a container (https://github.com/opencontainers/runtime-spec, config.md and
 * config-linux.md). Pure: an instance, its image's configuration and the user that was looked up come in, JSON goes out.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { CapsuleError } from "../../errors.ts";
import type { ExecOptions } from "../driver.ts";
import type { Instance } from "../instance.ts";
import { capabilitiesOf } from "./capabilities.ts";
import type { ImageConfig } from "./image-config.ts";
import { machineMounts, tmpfsMounts } from "./machine-mounts.ts";
import { seccompOf } from "./seccomp.ts";

export const SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
export const PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process";

export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  /** Home directory, "/" when unknown; "" when somebody else finds it out. */
  readonly home: string;
}

/** Range of ids on the capsule that a user namespace gets. */
export interface IdRange {
  readonly first: number;
  readonly size: number;
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const cpuPeriodUs = 100_000;

/** Nobody can give more than he has: in a capsule on a host the host decides (getrlimit(2), proc(5)). */
const openFilesLimit = Math.min(
  1_048_576,
  Number(/^Max open files +[0-9]+ +([0-9]+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 1_024),
);

/** Directories of /proc and /sys that tell about, or change, the whole machine; as Docker hides them. */
const maskedPaths = [
  ...["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"],
  ...["/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
  ...["/sys/devices/virtual/powercap"],
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

type Json = Record<string, unknown>;

/** Throws `precondition` when there is no command to run. */
export function specOf(instance: Instance, image: ImageConfig, user: User, ids: IdRange | undefined): Json {
  const { container } = instance;
  const { privileged } = container;
  return {
    ociVersion: "1.0.2",
    hostname: instance.network === "host" ? undefined : instance.hostname,
    root: { path: "rootfs", readonly: container.readOnlyRoot },
    process: processOf(
      {
        args: commandOf(instance, image),
        env: environment(image.env, instance.env, user),
        cwd: instance.workingDir ?? (image.workingDir === "" ? "/" : image.workingDir),
        tty: false,
      },
      user,
      capabilitiesOf(container),
    ),
    mounts: container.sharesMachine ? machineMounts(container.tmpfs) : mountsOf(instance, ids),
    linux: {
      namespaces: namespacesOf(instance, ids).map((type) => ({ type })),
      // What its mounts are copies of tells them what is mounted and unmounted there.
      ...(container.sharesMachine ? { rootfsPropagation: "rslave" } : {}),
      ...(ids === undefined ? {} : { uidMappings: [mapping(ids)], gidMappings: [mapping(ids)] }),
      cgroupsPath: cgroupPath(instance.uid),
      resources: resourcesOf(instance),
      sysctl: sysctlsOf(instance),
      ...(privileged ? {} : { seccomp: seccompOf(capabilitiesOf(container)), maskedPaths, readonlyPaths }),
    },
  };
}

/** Those that the instance has of its own. */
function namespacesOf({ network, container }: Instance, ids: IdRange | undefined): string[] {
  if (container.sharesMachine) return ["mount"];
  return [
    ...["pid", "ipc", "mount"],
    ...(network === "host" ? [] : ["uts", "network"]),
    ...(ids === undefined ? [] : ["user"]),
    "cgroup",
  ];
}

/** Where the runtime puts a container's cgroup, below the root of each hierarchy. */
export function cgroupPath(uid: string): string {
  return `/workloads/${uid}`;
}

/** As Docker: a command replaces entrypoint and default arguments, arguments alone only the default ones. */
export function commandOf(instance: Instance, image: ImageConfig): string[] {
  const { command, args } = instance;
  if (command.length > 0) return [...command, ...args];
  const words = [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
  if (words.length === 0) {
    throw new CapsuleError(
      "precondition",
      `Image ${instance.image.reference} says no command to run: set \`command\` in the manifest.`,
      { reason: "NO_COMMAND" },
    );
  }
  return words;
}

export interface ProcessOptions {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly tty: boolean;
  readonly size?: { readonly columns: number; readonly rows: number } | undefined;
}

export function processOf(
  { args, env, cwd, tty, size }: ProcessOptions,
  user: User,
  capabilities: readonly string[],
): Json {
  // Another user than root starts without effective capabilities, as execve(2) would have it.
  const effective = user.uid === 0 ? capabilities : [];
  return {
    terminal: tty,
    ...(size === undefined ? {} : { consoleSize: { width: size.columns, height: size.rows } }),
    user: { uid: user.uid, gid: user.gid, additionalGids: user.additionalGids },
    args,
    env,
    cwd,
    capabilities: { bounding: capabilities, effective, permitted: effective, inheritable: [], ambient: [] },
    rlimits: [{ type: "RLIMIT_NOFILE", hard: openFilesLimit, soft: Math.min(openFilesLimit, 65_536) }],
    oomScoreAdj: 0,
  };
}

/** What a command in a running instance inherits. */
export interface ExecBase {
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: readonly string[];
}

/** The process of a command in a running instance. */
export function execProcessOf(base: ExecBase, options: ExecOptions, user: User): Json {
  const capabilities = options.privileged
    ? capabilitiesOf({ addCapabilities: [], dropCapabilities: [], privileged: true })
    : base.capabilities;
  // What the instance has already names its home; another user has another.
  const inherited = options.user === undefined ? base.env : base.env.filter((entry) => !entry.startsWith("HOME="));
  const own = new Map(options.env);
  if (options.tty && !own.has("TERM")) own.set("TERM", "xterm-256color");
  return processOf(
    {
      args: options.command,
      env: environment(inherited, own, user),
      cwd: options.workingDir ?? base.cwd,
      tty: options.tty,
      size: options.size,
    },
    user,
    capabilities,
  );
}

/** The image's variables, then the instance's above them; PATH and HOME when neither has them. */
export function environment(image: readonly string[], own: ReadonlyMap<string, string>, user: User): string[] {
  const all = new Map<string, string>([
    ["PATH", defaultPath],
    ...(user.home === "" ? [] : [["HOME", user.home] as const]),
  ]);
  for (const entry of image) {
    const at = entry.indexOf("=");
    if (at > 0) all.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const [name, value] of own) all.set(name, value);
  return [...all].map(([name, value]) => `${name}=${value}`);
}

function mountsOf(instance: Instance, ids: IdRange | undefined): Json[] {
  const { container } = instance;
  const writable = container.privileged ? "rw" : "ro";
  const bind = (source: string, destination: string, readOnly: boolean): Json => ({
    destination,
    type: "bind",
    source,
    options: ["rbind", "rprivate", readOnly ? "ro" : "rw"],
  });
  const nosuid = ["nosuid", "noexec", "nodev"];
  return [
    { destination: "/proc", type: "proc", source: "proc", options: nosuid },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: [...nosuid, "mode=1777", `size=${Math.ceil(container.shmBytes / 1024)}k`],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: nosuid },
    // The kernel lets a user namespace mount sysfs only if it owns the network namespace.
    ids !== undefined && instance.network === "host"
      ? { destination: "/sys", type: "bind", source: "/sys", options: ["rbind", "rprivate", ...nosuid, "ro"] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: [...nosuid, writable] },
    { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: [...nosuid, "relatime", writable] },
    ...tmpfsMounts(container.tmpfs),
    ...[...instance.files].map(([target, source]) => bind(source, target, false)),
    ...instance.mounts.map(({ source, target, readOnly }) => ({
      ...bind(source, target, readOnly),
      // A mount that is made read-only keeps none of the options of the volume's own.
      options: ["rbind", "rprivate", "nosuid", "nodev", readOnly ? "ro" : "rw"],
      // Owners in a volume are those that the container sees, whatever its ids are outside (mount_setattr(2), idmapped).
      ...(ids === undefined ? {} : { uidMappings: [mapping(ids)], gidMappings: [mapping(ids)] }),
    })),
  ];
}

function resourcesOf(instance: Instance): Json {
  const { cpuMillis, memoryBytes, pidsMax } = instance.limits;
  const allowed = { allow: true, type: "c", access: "rwm" };
  const devices = instance.container.privileged
    ? [{ allow: true, access: "rwm" }]
    : [
        { allow: false, access: "rwm" },
        // null, zero, full, random, urandom, tty, ptmx, pts: memory and terminal devices of Documentation/admin-guide/devices.txt.
        ...[3, 5, 7, 8, 9].map((minor) => ({ ...allowed, major: 1, minor })),
        { ...allowed, major: 5, minor: 0 },
        { ...allowed, major: 5, minor: 2 },
        { ...allowed, major: 136 },
        // mknod is harmless: opening is what the rules above decide.
        { allow: true, type: "c", access: "m" },
        { allow: true, type: "b", access: "m" },
      ];
  return {
    devices,
    ...(memoryBytes === 0 ? {} : { memory: { limit: memoryBytes } }),
    ...(cpuMillis === 0 ? {} : { cpu: { quota: (cpuMillis * cpuPeriodUs) / 1_000, period: cpuPeriodUs } }),
    ...(pidsMax === 0 ? {} : { pids: { limit: pidsMax } }),
  };
}

function sysctlsOf(instance: Instance): Json {
  return {
    // As Docker since 20.10: ports below 1024 and ping need no root inside a network of one's own.
    ...(instance.network === "host" ? {} : { "net.ipv4.ip_unprivileged_port_start": "0" }),
    ...Object.fromEntries([...instance.container.sysctls].map(([name, value]) => [name.replaceAll("/", "."), value])),
  };
}

function mapping({ first, size }: IdRange): Json {
  return { containerID: 0, hostID: first, size };
}

/**
 * The ids on the capsule of a workload's user namespace: 65,536 of them, from its uid, above all ordinary ones. 30,000
 * ranges fit; two workloads may share one, which is no worse than sharing none.
 */
export function idRangeOf(uid: string): IdRange {
  const size = 65_536;
  const number = createHash("sha256").update(uid).digest().readUInt32BE(0) % 30_000;
  return { first: 100_000_000 + number * size, size };
}
