/**
 * System calls that no container may make unless it has the capability that goes with them. A list of what is denied, not
 * of what is allowed: what is left out are calls that act on the whole machine or are mostly of use to attackers, and new
 * harmless calls of new programs work. The kernel's own checks of capabilities and namespaces stay in force beside it.
 */
const denied: readonly { readonly names: readonly string[]; readonly unless?: string }[] = [
  { names: ["bpf"], unless: "CAP_BPF" },
  { names: ["perf_event_open"], unless: "CAP_PERFMON" },
  { names: ["kexec_load", "kexec_file_load", "reboot"], unless: "CAP_SYS_BOOT" },
  { names: ["init_module", "finit_module", "delete_module"], unless: "CAP_SYS_MODULE" },
  { names: ["iopl", "ioperm"], unless: "CAP_SYS_RAWIO" },
  { names: ["settimeofday", "clock_settime", "stime"], unless: "CAP_SYS_TIME" },
  { names: ["open_by_handle_at"], unless: "CAP_DAC_READ_SEARCH" },
  { names: ["acct"], unless: "CAP_SYS_PACCT" },
  { names: ["syslog"], unless: "CAP_SYSLOG" },
  // Namespaces of one's own open much of the kernel to an unprivileged process.
  {
    names: [
      "unshare",
      "setns",
      "mount",
      "umount2",
      "pivot_root",
      "fsopen",
      "fsconfig",
      "fsmount",
      "fspick",
      "open_tree",
      "move_mount",
      "mount_setattr",
      "swapon",
      "swapoff",
      "quotactl",
      "quotactl_fd",
      "fanotify_init",
      "lookup_dcookie",
    ],
    unless: "CAP_SYS_ADMIN",
  },
  // The key rings of the kernel are not namespaced.
  { names: ["add_key", "keyctl", "request_key", "userfaultfd", "nfsservctl", "uselib", "vm86", "vm86old"] },
];

const EPERM = 1;
const ENOSYS = 38;
/** linux/sched.h */
const CLONE_NEWUSER = 0x10000000;

/** The `linux.seccomp` of a specification. */
export function seccompOf(capabilities: readonly string[]): Record<string, unknown> {
  const has = new Set(capabilities);
  const names = denied.flatMap((rule) => (rule.unless !== undefined && has.has(rule.unless) ? [] : rule.names));
  const rules: Record<string, unknown>[] = [{ names, action: "SCMP_ACT_ERRNO", errnoRet: EPERM }];
  if (!has.has("CAP_SYS_ADMIN")) {
    const args = [{ index: 0, value: CLONE_NEWUSER, valueTwo: CLONE_NEWUSER, op: "SCMP_CMP_MASKED_EQ" }];
    rules.push(
      { names: ["clone"], action: "SCMP_ACT_ERRNO", errnoRet: EPERM, args },
      // Its flags are in memory, out of the filter's sight: the C library goes back to clone.
      { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    );
  }
  const architectures =
    process.arch === "x64"
      ? ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
      : ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
  return { defaultAction: "SCMP_ACT_ALLOW", architectures, syscalls: rules };
}
