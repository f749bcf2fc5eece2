/** The OCI configuration of a test's payload, as the capsule would make it. */
import { processOf } from "./exec.ts";

/** The first volume, if there is one, is at /data; file 0 at /srv/file. */
export function configOf(args: readonly string[], memoryBytes: number, isWithVolume: boolean): Uint8Array {
  const bind = (source: string, destination: string, ...options: string[]): unknown => ({
    destination,
    type: "bind",
    source,
    options: ["bind", ...options],
  });
  return Buffer.from(
    JSON.stringify({
      ociVersion: "1.0.2",
      root: { path: "/run/payload/rootfs", readonly: false },
      process: processOf(args),
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
        { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
        ...(isWithVolume
          ? [bind("/run/payload/volumes/0/sub/dir", "/data"), bind("/run/payload/files/0", "/srv/file", "ro")]
          : []),
      ],
      linux: {
        namespaces: ["pid", "ipc", "mount", "cgroup"].map((type) => ({ type })),
        resources: { memory: { limit: memoryBytes }, pids: { limit: 100 } },
      },
    }),
  );
}
