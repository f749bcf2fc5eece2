import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** One mounted cgroup hierarchy of the host: a v1 controller, or v2. */
export type Hierarchy = {
  readonly mountPoint: string;
  readonly type: "cgroup" | "cgroup2";
  /** Mount options that name it, such as `memory` or `name=systemd`; "" for v2. */
  readonly options: string;
};

const base = "/sys/fs/cgroup";

/** The hierarchies in a mountinfo file, see proc_pid_mountinfo(5). */
export function hierarchiesOf(mountinfo: string): Hierarchy[] {
  const found = new Map<string, Hierarchy>();
  for (const line of mountinfo.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const mountPoint = left.split(" ")[4] ?? "";
    const [type, , superOptions = ""] = right.split(" ");
    if ((type !== "cgroup" && type !== "cgroup2") || !(mountPoint === base || mountPoint.startsWith(`${base}/`)))
      continue;
    const flags = new Set(["rw", "ro", "nsdelegate", "memory_recursiveprot", "memory_hugetlb_accounting", "xattr"]);
    const options =
      type === "cgroup2"
        ? []
        : superOptions.split(",").filter((option) => !flags.has(option) && !option.startsWith("release_agent"));
    found.set(mountPoint, { mountPoint, type, options: options.join(",") });
  }
  return [...found.values()];
}

export function hostHierarchies(): Hierarchy[] {
  return hierarchiesOf(readFileSync("/proc/self/mountinfo", "utf8"));
}

/** Name of the capsule's group, the same in every hierarchy. */
export function groupName(capsule: string): string {
  return `capsule-${capsule}`;
}

/**
 * Makes the capsule's group in every hierarchy, with a child `init` for its PID 1: on v2 a group that passes controllers
 * on to children cannot hold processes itself.
 */
export async function makeGroups(capsule: string): Promise<void> {
  for (const hierarchy of hostHierarchies()) {
    const group = join(hierarchy.mountPoint, groupName(capsule));
    if (hierarchy.type === "cgroup2") await passControllersOn(hierarchy.mountPoint);
    await mkdir(group, { recursive: true });
    await inheritCpuset(hierarchy.mountPoint, group);
    await mkdir(join(group, "init"), { recursive: true });
    await inheritCpuset(group, join(group, "init"));
  }
}

/** Passes the controllers of v2 on below the capsule's group; possible once its PID 1 has moved to the child `init`. */
export async function delegateGroups(capsule: string): Promise<void> {
  for (const { mountPoint, type } of hostHierarchies()) {
    if (type === "cgroup2") await passControllersOn(join(mountPoint, groupName(capsule)));
  }
}

async function passControllersOn(group: string): Promise<void> {
  const available = (await readFile(join(group, "cgroup.controllers"), "utf8")).trim();
  for (const controller of available.split(" ").filter((name) => name !== "")) {
    // One at a time: a controller that cannot be passed on (rt processes under cpu) must not cost the others.
    await writeFile(join(group, "cgroup.subtree_control"), `+${controller}`).catch(() => {});
  }
}

/** A new v1 cpuset is empty and takes no process until it is filled. */
async function inheritCpuset(parent: string, child: string): Promise<void> {
  if (existsSync(join(child, "cgroup.clone_children"))) await writeFile(join(child, "cgroup.clone_children"), "1");
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    if (existsSync(join(child, "cgroup.subtree_control")) || !existsSync(join(child, file))) continue;
    const value = (await readFile(join(child, file), "utf8")).trim();
    if (value === "") await writeFile(join(child, file), await readFile(join(parent, file), "utf8"));
  }
}

/** Every group of the capsule with those below it, deepest first. */
async function groupsOf(capsule: string): Promise<string[]> {
  const groups: string[] = [];
  const walk = async (group: string): Promise<void> => {
    const entries = await readdir(group, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) if (entry.isDirectory()) await walk(join(group, entry.name));
    groups.push(group);
  };
  for (const { mountPoint } of hostHierarchies()) {
    const group = join(mountPoint, groupName(capsule));
    if (existsSync(group)) await walk(group);
  }
  return groups;
}

/** Host pids of everything in the capsule: the truth also when the registry is lost. */
export async function processesOf(capsule: string): Promise<number[]> {
  const pids = new Set<number>();
  for (const group of await groupsOf(capsule)) {
    const text = await readFile(join(group, "cgroup.procs"), "utf8").catch(() => "");
    for (const line of text.split("\n")) if (line !== "") pids.add(Number(line));
  }
  return [...pids];
}

/** Removes the capsule's groups; returns those that stayed because a process is in them. */
export async function removeGroups(capsule: string, timeoutMs = 5_000): Promise<string[]> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    for (const group of await groupsOf(capsule)) await rmdir(group).catch(() => {});
    const left = await groupsOf(capsule);
    if (left.length === 0 || Date.now() > deadline) return left;
    await sleep(20); // the kernel takes a moment to let go of processes that were killed
  }
}

/**
 * Lines "<type> <options or -> <place below /sys/fs/cgroup or .>" for the script that builds the capsule's mounts.
 * On a host with both kinds the capsule gets v1 only: crun refuses to run where v2 has any controller beside v1's.
 */
export function mountTable(hierarchies: readonly Hierarchy[]): string {
  const hybrid = hierarchies.some(({ type }) => type === "cgroup");
  return hierarchies
    .filter(({ type }) => !(hybrid && type === "cgroup2"))
    .map(({ mountPoint, type, options }) => {
      const place = mountPoint === base ? "." : basename(mountPoint);
      return `${type} ${options === "" ? "-" : options} ${place}`;
    })
    .join("\n");
}
