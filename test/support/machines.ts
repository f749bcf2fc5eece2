/** What tests of microVMs ask of a capsule again and again. */
import { isMachine, kind } from "./kind.ts";
import type { TestCapsule } from "./test-capsule.ts";

/** A workload of either kind with the fields that both have. `fields` are lines of YAML with two blanks before them. */
export function workloadOf(kind: "MicroVM" | "Container", name: string, image: string, fields: string): string {
  return `kind: ${kind}\nname: ${name}\n${kind === "MicroVM" ? "microVm" : "container"}:\n  image: ${image}\n${fields}\n`;
}

/** A workload of the suite's kind that does nothing, and ends at once when it is told to. `fields` are lines as of `workloadOf`. */
export function sleeperOf(name: string, fields: string): string {
  const memory = isMachine ? "  memoryMib: 96\n" : "";
  return workloadOf(kind, name, "busybox:1", `  command: [sleep, 1d]\n  stopTimeout: 0s\n${memory}${fields}`);
}

/** Everything that the capsule has of a microVM, one thing a line: directories, link, cgroups, disks, processes. */
export async function leftOf(capsule: TestCapsule, uid: string): Promise<string> {
  const look = [
    `ls -d /run/capsule/vm/${uid} /perm/workloads/${uid} 2>/dev/null`,
    `ip link show c-${uid} 2>/dev/null`,
    `find /sys/fs/cgroup -maxdepth 3 -name ${uid}`,
    `ls /run/capsule/pools/default/disks | grep ${uid}`,
  ];
  const things = await capsule.host.exec(["sh", "-c", `{ ${look.join("; ")}; } || true`]);
  return `${things}${(await processesOf(capsule, uid)).join("\n")}`.trim();
}

/** Directories below /proc of all processes that have the uid on their command line. */
export async function processesOf(capsule: TestCapsule, uid: string): Promise<string[]> {
  // A pattern that does not find the one who looks.
  const pattern = `[${uid[0]}]${uid.slice(1)}`;
  const found = await capsule.host.exec(["sh", "-c", `grep -l "${pattern}" /proc/[0-9]*/cmdline || true`]);
  return found.split("\n").filter((line) => line !== "");
}
