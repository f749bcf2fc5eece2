/** Linux capabilities (capabilities(7)) of a container. */
import { readFileSync } from "node:fs";
import { CapsuleError } from "../../errors.ts";

/** What a container has unless told otherwise: the set of Docker, which images are written for. */
const defaults = [
  "CAP_AUDIT_WRITE",
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_MKNOD",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_RAW",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_CHROOT",
];

/** By their numbers in linux/capability.h. */
const all = [
  ...["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID"],
  ...["CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN"],
  ...["CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT"],
  ...["CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"],
  ...["CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL"],
  ...["CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND"],
  ...["CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"],
];

/** Those of a set as the kernel writes it: one bit each. */
export function capabilitiesIn(set: bigint): string[] {
  return all.filter((_, number) => ((set >> BigInt(number)) & 1n) === 1n);
}

/** Nobody can give more than he has: in a capsule on a host the host decides (proc_pid_status(5)). */
const own = /^CapBnd:\t([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "f".repeat(16);
const everything = capabilitiesIn(BigInt(`0x${own}`));

export interface CapabilityOptions {
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly privileged: boolean;
}

/** The capabilities of a container, sorted. ALL, all that capsuled has, is taken in both lists; drops go first. Throws `invalid`. */
export function capabilitiesOf({ addCapabilities, dropCapabilities, privileged }: CapabilityOptions): string[] {
  if (privileged) return [...everything].sort();
  const add = addCapabilities.map(full);
  const drop = dropCapabilities.map(full);
  const set = new Set(drop.includes("CAP_ALL") ? [] : defaults);
  for (const name of drop) set.delete(name);
  for (const name of add.includes("CAP_ALL") ? everything.filter((one) => !drop.includes(one)) : add) set.add(name);
  return [...set].sort();
}

function full(name: string): string {
  const upper = name.toUpperCase();
  const prefixed = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (prefixed === "CAP_ALL" || all.includes(prefixed)) return prefixed;
  throw new CapsuleError("invalid", `"${name}" is no capability of Linux.`, { reason: "UNKNOWN_CAPABILITY" });
}
