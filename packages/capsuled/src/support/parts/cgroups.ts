/** Control groups with what they use, in version 1 and 2 (Documentation/admin-guide/cgroup-v1 and -v2 of the kernel). */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join, relative } from "node:path";
import type { Part } from "../part.ts";
import { contentOf, unlessMissing } from "./files.ts";

const root = "/sys/fs/cgroup";
const maxDepth = 4;
const maxGroups = 2_000;
const fileBytes = 4_096;
/** Where the files are: a hierarchy for each controller in version 1, one for all in version 2. */
const hierarchies1: Readonly<Record<string, readonly string[]>> = {
  memory: ["memory.usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt", "memory.oom_control"],
  cpu: ["cpu.stat", "cpu.cfs_quota_us", "cpuacct.usage"],
  pids: ["pids.current", "pids.max"],
};
const files2 = [
  ...["memory.current", "memory.min", "memory.max", "memory.events", "memory.pressure", "cpu.stat", "cpu.max"],
  ...["cpu.pressure", "io.pressure", "pids.current", "pids.max"],
];

/** A part with a line for each file of each group: group, file, and its content on one line. */
export function cgroupsPart(name: string): Part {
  return {
    name,
    limitBytes: 4 * 1024 ** 2,
    collect: async ({ signal }) => {
      const lines: string[] = [];
      const hierarchies: [string, readonly string[]][] = existsSync(join(root, "cgroup.controllers"))
        ? [[root, files2]]
        : Object.entries(hierarchies1).map(([controller, files]) => [join(root, controller), files]);
      let groups = 0;
      for (const [top, files] of hierarchies) {
        for await (const group of groupsBelow(top, maxDepth)) {
          signal.throwIfAborted();
          if (++groups > maxGroups) break;
          for (const file of files) {
            // A group may end at any moment.
            const text = await contentOf(join(group, file), { limitBytes: fileBytes }).catch(unlessMissing);
            if (text !== undefined)
              lines.push(`${relative(root, group) || "."} ${file}: ${text.trim().replaceAll("\n", "; ")}\n`);
          }
        }
      }
      const faults = groups > maxGroups ? [`cut: only ${maxGroups} groups are told of`] : [];
      return { text: lines.join(""), faults };
    },
  };
}

async function* groupsBelow(dir: string, depth: number): AsyncGenerator<string> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(unlessMissing);
  if (entries === undefined) return;
  yield dir;
  if (depth === 0) return;
  for (const entry of entries) if (entry.isDirectory()) yield* groupsBelow(join(dir, entry.name), depth - 1);
}
