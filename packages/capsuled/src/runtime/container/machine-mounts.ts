/** What of the machine an instance has that shares it (debug sessions). */
import type { ContainerOptions } from "../instance.ts";

type Mount = Record<string, string | readonly string[]>;

/** Place in the instance, place on the capsule. Data and sockets lie where programs of the capsule look for them, too. */
const places: readonly (readonly [destination: string, source: string])[] = [
  ["/dev", "/dev"],
  ["/sys", "/sys"],
  ["/host", "/"],
  ["/perm", "/perm"],
  ["/run", "/run"],
];

/** Slaves: what is mounted in them does not come back, and what the capsule unmounts is not held by them. */
export function machineMounts(tmpfs: ContainerOptions["tmpfs"]): Mount[] {
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    ...places.map(([destination, source]) => ({
      destination,
      type: "bind",
      source,
      options: ["rbind", "rslave", "rw"],
    })),
    ...tmpfsMounts(tmpfs),
  ];
}

export function tmpfsMounts(tmpfs: ContainerOptions["tmpfs"]): Mount[] {
  return tmpfs.map(({ target, sizeBytes }) => ({
    destination: target,
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "nodev", "mode=1777", `size=${Math.ceil(sizeBytes / 1024)}k`],
  }));
}
