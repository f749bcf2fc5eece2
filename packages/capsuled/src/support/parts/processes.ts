/** Processes (proc(5)): the capsule's own with their arguments, those of workloads by their names alone. */
import { readdir, readlink } from "node:fs/promises";
import type { Part } from "../part.ts";
import { contentOf, unlessMissing } from "./files.ts";

const shown = ["Name", "State", "PPid", "Uid", "VmRSS", "Threads"];
const fileBytes = 16_384;

/** A part with a line for each process that the capsule sees. Nothing of an environment is read. */
export function processesPart(name: string): Part {
  return {
    name,
    collect: async ({ signal }) => {
      const pids = (await readdir("/proc")).filter((entry) => /^[0-9]+$/.test(entry)).map(Number);
      const own = await readlink("/proc/self/ns/pid");
      const lines = [`PID ${shown.join(" ")} wchan arguments\n`];
      for (const pid of pids.sort((a, b) => a - b)) {
        signal.throwIfAborted();
        // It may end at any moment.
        const line = await lineOf(pid, own).catch(unlessMissing);
        if (line !== undefined) lines.push(line);
      }
      return lines.join("");
    },
  };
}

async function lineOf(pid: number, own: string): Promise<string> {
  const read = async (file: string): Promise<string> =>
    await contentOf(`/proc/${pid}/${file}`, { limitBytes: fileBytes });
  const status = await read("status");
  const fields = shown.map((key) => {
    const value = new RegExp(`^${key}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "-";
    return (key === "Uid" ? value.split("\t")[0] : value.replaceAll(/\s+/g, "")) || "-";
  });
  const wchan = (await read("wchan").catch(() => "")) || "-";
  // Who is in another namespace is a workload's, and its arguments are the workload's business.
  const namespace = await readlink(`/proc/${pid}/ns/pid`).catch(() => "");
  const args = namespace === own ? (await read("cmdline")).split("\0").join(" ").trim() : "(of a workload)";
  return `${pid} ${fields.join(" ")} ${wchan} ${args.replaceAll("\n", " ")}\n`;
}
