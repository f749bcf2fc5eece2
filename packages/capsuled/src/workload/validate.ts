/**
 * Whether a spec can be carried out at all. Pure; finds every fault at once, each with its path in the manifest. What a
 * later version will do is refused by name: a setting that is silently ignored would be worse.
 */
import { isIP } from "node:net";
import type { ContainerSpec, MicroVmSpec, WorkloadSpec } from "@capsule/api";
import { ImagePullPolicy, NetworkMode, Protocol, RestartPolicy } from "@capsule/api";
import type { FieldViolation } from "../errors.ts";
import { clip, Faults, known, LABEL } from "./faults.ts";
import { type MachineLimits, validateMicroVm } from "./validate-machine.ts";

const ENV_NAME = /^[^=\0]+$/;
const SYSCTL = /^[a-z0-9_-]+([./][A-Za-z0-9_-]+)+$/;
const CAPABILITY = /^(CAP_)?[A-Z_]+$/i;
const SIGNAL = /^(SIG)?[A-Z0-9+-]+$|^[0-9]{1,2}$/i;
/** The port of the capsule's own API. */
const API_PORT = 50_000;
/** Namespaced kernel parameters (sysctl(2) namespaces; the same families as Docker takes). */
const NAMESPACED = /^(kernel\.(msg(max|mnb|mni)|sem|shm(all|max|mni|_rmid_forced))|fs\.mqueue\..+|net\..+)$/;
const MAX_MILLIS = 1_024_000;
const MAX_MEMORY_MIB = 64 * 1024 * 1024;

/** Every fault of a spec; empty when there is none. */
export function validateWorkload(spec: WorkloadSpec, machines: MachineLimits): FieldViolation[] {
  const faults = new Faults(spec.kind.case ?? "container");
  if (!LABEL.test(spec.name)) {
    faults.add("name", `"${clip(spec.name)}" is no DNS label: 1 to 63 of a-z, 0-9 and "-", no "-" at the ends`);
  }
  const labels = Object.entries(spec.labels);
  if (labels.length > 64) faults.add("labels", `${labels.length} labels; at most 64 are taken`);
  for (const [key, value] of labels.slice(0, 64)) {
    if (key.length < 1 || key.length > 63) faults.add("labels", `label "${clip(key)}": a key has 1 to 63 characters`);
    if (value.length > 256) faults.add(`labels["${clip(key)}"]`, "a value has at most 256 characters");
  }
  switch (spec.kind.case) {
    case "container":
      validateCommon(spec.kind.value, faults);
      validateContainer(spec.kind.value, faults);
      break;
    case "microVm":
      validateCommon(spec.kind.value, faults);
      validateMicroVm(spec.kind.value, machines, faults);
      break;
    case undefined:
      faults.add("container", "it has neither `container` nor `microVm`: one is needed");
  }
  return faults.found;
}

/** What both kinds have. */
type CommonSpec = ContainerSpec | MicroVmSpec;

function validateCommon(spec: CommonSpec, faults: Faults): void {
  if (spec.image === "" && !("kernelPath" in spec && spec.kernelPath !== ""))
    faults.add(faults.at("image"), "an image is needed, such as busybox:1");
  validateProcess(spec, faults);
  validateNetwork(spec, faults);
  validateLimits(spec, faults);
  validateMounts(spec, faults);
  refuseLater(spec, faults);
}

function validateContainer(spec: ContainerSpec, faults: Faults): void {
  const at = (path: string): string => faults.at(path);
  for (const list of ["add", "drop"] as const) {
    for (const [i, name] of (spec.capabilities?.[list] ?? []).entries()) {
      if (!CAPABILITY.test(name)) faults.add(at(`capabilities.${list}[${i}]`), `"${clip(name)}" is no capability`);
    }
  }
  for (const name of Object.keys(spec.sysctls)) {
    const path = at(`sysctls["${clip(name)}"]`);
    if (!SYSCTL.test(name)) faults.add(path, "no name of a kernel parameter, such as net.core.somaxconn");
    else if (!NAMESPACED.test(name)) faults.add(path, "it belongs to the whole machine, not to one container");
    else if (name.startsWith("net.") && spec.networkMode === NetworkMode.HOST) {
      faults.add(path, "with networkMode HOST it would change the capsule itself");
    }
  }
  if (spec.privileged && spec.userNamespace) {
    faults.add(at("privileged"), "it cannot be combined with userNamespace: choose one");
  }
  if (spec.shmMib > MAX_MEMORY_MIB) faults.add(at("shmMib"), `${spec.shmMib} MiB is not possible`);
  for (const [i, { sizeMib }] of spec.tmpfs.entries()) {
    if (sizeMib > MAX_MEMORY_MIB) faults.add(at(`tmpfs[${i}].sizeMib`), `${sizeMib} MiB is not possible`);
  }
  if (spec.init)
    faults.add(at("init"), "this version of Capsule has no init inside a container yet: leave the field out");
}

/** Volumes and filesystems in memory: each at a path of its own. */
function validateMounts(spec: CommonSpec, faults: Faults): void {
  if (spec.mounts.length > 100) faults.add(faults.at("mounts"), `${spec.mounts.length} mounts; at most 100 are taken`);
  for (const [i, { volumeName, subPath }] of spec.mounts.slice(0, 100).entries()) {
    if (!LABEL.test(volumeName))
      faults.add(faults.at(`mounts[${i}].volumeName`), `"${clip(volumeName)}" is no name of a volume`);
    const parts = subPath.split("/");
    if (
      subPath !== "" &&
      (subPath.length > 1024 || subPath.includes("\0") || parts.some((one) => one === ".." || one === ""))
    )
      faults.add(
        faults.at(`mounts[${i}].subPath`),
        `"${clip(subPath)}" is not possible: a path such as data/web, without ".."`,
      );
  }
  const all = [
    ...spec.mounts.slice(0, 100).map(({ mountPath }, i) => ({
      at: faults.at(`mounts[${i}].mountPath`),
      mountPath,
    })),
    ...("tmpfs" in spec ? spec.tmpfs : []).map(({ mountPath }, i) => ({
      at: faults.at(`tmpfs[${i}].mountPath`),
      mountPath,
    })),
  ];
  for (const { at, mountPath } of all) {
    if (!isCleanPath(mountPath) || normalized(mountPath) === "/") faults.add(at, pathFault(mountPath));
    else if (/^\/(proc|sys)(\/|$)/.test(normalized(mountPath)))
      faults.add(at, "/proc and /sys are the kernel's: choose another path");
  }
  duplicates(all.map(({ mountPath }) => normalized(mountPath))).forEach((i) => {
    faults.add(all[i]?.at ?? faults.at("mounts"), "another mount has the same path");
  });
}

function normalized(path: string): string {
  return `/${path
    .split("/")
    .filter((one) => one !== "" && one !== ".")
    .join("/")}`;
}

function validateProcess(spec: CommonSpec, faults: Faults): void {
  const at = (path: string): string => faults.at(path);
  for (const [i, { name, value }] of spec.env.entries()) {
    if (!ENV_NAME.test(name)) faults.add(at(`env[${i}].name`), `"${clip(name)}" is no name of a variable`);
    if (value.includes("\0")) faults.add(at(`env[${i}].value`), "it contains a zero byte");
  }
  duplicates(spec.env.map(({ name }) => name)).forEach((i) => {
    faults.add(at(`env[${i}].name`), `"${clip(spec.env[i]?.name ?? "")}" is set twice`);
  });
  for (const list of ["command", "args"] as const) {
    for (const [i, word] of spec[list].entries()) {
      if (word.includes("\0")) faults.add(at(`${list}[${i}]`), "it contains a zero byte");
    }
  }
  if (spec.command[0] === "") faults.add(at("command[0]"), "the program's name is empty");
  if (spec.workingDir !== "" && !isCleanPath(spec.workingDir)) faults.add(at("workingDir"), pathFault(spec.workingDir));
  if (spec.user.length > 256 || /[\0\n]/.test(spec.user))
    faults.add(at("user"), "no user, such as 1000:1000 or www-data");
  if (spec.hostname !== "" && !spec.hostname.split(".").every((label) => LABEL.test(label))) {
    faults.add(at("hostname"), `"${clip(spec.hostname)}" is no host name`);
  }
  if (spec.hostname.length > 64) faults.add(at("hostname"), "a host name has at most 64 characters");
  if (spec.hostname !== "" && spec.networkMode === NetworkMode.HOST) {
    faults.add(at("hostname"), "with networkMode HOST it has the capsule's own");
  }
  if (spec.stopSignal !== "" && !SIGNAL.test(spec.stopSignal)) {
    faults.add(at("stopSignal"), `"${clip(spec.stopSignal)}" is no signal, such as SIGTERM or 15`);
  }
  const { stopTimeout } = spec;
  if (stopTimeout !== undefined && (stopTimeout.seconds < 0n || stopTimeout.nanos < 0 || stopTimeout.seconds > 600n)) {
    faults.add(at("stopTimeout"), "it is between 0 and 10 minutes");
  }
  known(spec.restartPolicy, RestartPolicy, at("restartPolicy"), faults);
  known(spec.imagePullPolicy, ImagePullPolicy, at("imagePullPolicy"), faults);
}

function validateNetwork(spec: CommonSpec, faults: Faults): void {
  const at = (path: string): string => faults.at(path);
  known(spec.networkMode, NetworkMode, at("networkMode"), faults);
  if (spec.ports.length > 1_000) faults.add(at("ports"), `${spec.ports.length} ports; at most 1000 are taken`);
  for (const [i, port] of spec.ports.slice(0, 1_000).entries()) {
    const path = at(`ports[${i}]`);
    known(port.protocol, Protocol, `${path}.protocol`, faults);
    if (port.containerPort < 1 || port.containerPort > 65_535) {
      faults.add(`${path}.containerPort`, `${port.containerPort} is no port: 1 to 65535`);
    }
    if (port.hostPort > 65_535) faults.add(`${path}.hostPort`, `${port.hostPort} is no port: 1 to 65535`);
    if ((port.hostPort || port.containerPort) === API_PORT && port.protocol !== Protocol.UDP) {
      faults.add(`${path}.hostPort`, `${API_PORT}/tcp is the capsule's own API; choose another hostPort`);
    }
    if (port.hostAddress !== "" && (isIP(port.hostAddress) === 0 || port.hostAddress.includes("%"))) {
      faults.add(`${path}.hostAddress`, `"${clip(port.hostAddress)}" is no IP address`);
    }
  }
  duplicates(
    spec.ports.map((p) => `${p.protocol || Protocol.TCP} ${p.hostPort || p.containerPort} ${p.hostAddress}`),
  ).forEach((i) => {
    faults.add(at(`ports[${i}].hostPort`), "the workload maps this port twice");
  });
  const bridged = spec.networkMode === NetworkMode.UNSPECIFIED || spec.networkMode === NetworkMode.BRIDGE;
  if (!bridged && spec.ports.length > 0) faults.add(at("ports"), "ports are mapped with networkMode BRIDGE only");
  for (const [i, server] of (spec.dns?.servers ?? []).entries()) {
    if (isIP(server) === 0) faults.add(at(`dns.servers[${i}]`), `"${clip(server)}" is no IP address`);
  }
  for (const list of ["searches", "options"] as const) {
    for (const [i, word] of (spec.dns?.[list] ?? []).entries()) {
      if (!/^[A-Za-z0-9_.:-]{1,253}$/.test(word))
        faults.add(at(`dns.${list}[${i}]`), `"${clip(word)}" is not possible here`);
    }
  }
}

function validateLimits(spec: CommonSpec, faults: Faults): void {
  const at = (path: string): string => faults.at(path);
  const { cpuMillis = 0, memoryMib = 0, pidsMax = 0 } = spec.resources ?? {};
  if (cpuMillis !== 0 && (cpuMillis < 10 || cpuMillis > MAX_MILLIS)) {
    faults.add(at("resources.cpuMillis"), `${cpuMillis} is not possible: 10 to ${MAX_MILLIS}, or 0 for no limit`);
  }
  if (memoryMib !== 0 && (memoryMib < 6 || memoryMib > MAX_MEMORY_MIB)) {
    faults.add(at("resources.memoryMib"), `${memoryMib} is not possible: 6 to ${MAX_MEMORY_MIB}, or 0 for no limit`);
  }
  if (pidsMax > 4_194_304) faults.add(at("resources.pidsMax"), `${pidsMax} is more than Linux has (4194304)`);
  const { maxBytes = 0n, maxFiles = 0 } = spec.logs ?? {};
  if (maxBytes !== 0n && (maxBytes < 65_536n || maxBytes > 2n ** 40n)) {
    faults.add(at("logs.maxBytes"), "the size of a log file is between 64 KiB and 1 TiB");
  }
  if (maxFiles > 100) faults.add(at("logs.maxFiles"), "at most 100 log files are kept");
}

/** What has its place in the schema and not yet in this version. */
function refuseLater(spec: CommonSpec, faults: Faults): void {
  const later: readonly [string, boolean, string][] = [
    ["probes", spec.probes.length > 0, "health checks"],
    ["dependsOn", spec.dependsOn.length > 0, "dependencies"],
    ["devices", spec.devices.length > 0, "devices"],
    ["secrets", spec.secrets.length > 0, "secrets"],
    ["allowFrom", spec.allowFrom.length > 0, "the fabric"],
    ["allowTo", spec.allowTo.length > 0, "the fabric"],
    ["job", spec.job !== undefined, "jobs"],
  ];
  for (const [field, used, what] of later) {
    if (used) faults.add(faults.at(field), `this version of Capsule has no ${what} yet: leave the field out`);
  }
}

function isCleanPath(path: string): boolean {
  return path.startsWith("/") && path.length < 4096 && !path.includes("\0") && !path.split("/").includes("..");
}

function pathFault(path: string): string {
  return `"${clip(path)}" is not possible: an absolute path below / without ".." is needed`;
}

function duplicates(values: readonly string[]): number[] {
  const seen = new Set<string>();
  return values.flatMap((value, i) => {
    if (seen.has(value)) return [i];
    seen.add(value);
    return [];
  });
}
