import { readFile } from "node:fs/promises";

/** USER_HZ: the unit of times in /proc, fixed on the architectures that Capsule runs on (proc(5)). */
const ticksPerSecond = 100;
let bootMs: number | undefined;

/** State and start time of a process, as proc_pid_stat(5) tells them; undefined when it is gone. */
export async function statOf(pid: number): Promise<{ state: string; startTicks: string } | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  if (stat === undefined) return undefined;
  // The name in parentheses may hold anything; the state is the first field after it, the start time (field 22) the 20th.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", startTicks: fields[19] ?? "0" };
}

/** When a process started; now, when it is gone. */
export async function startTimeOf(pid: number): Promise<Date> {
  const stat = await statOf(pid);
  if (stat === undefined) return new Date();
  bootMs ??= Number(/^btime ([0-9]+)$/m.exec(await readFile("/proc/stat", "utf8"))?.[1] ?? 0) * 1000;
  return new Date(bootMs + (Number(stat.startTicks) * 1000) / ticksPerSecond);
}
