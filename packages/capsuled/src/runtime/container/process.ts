import { readFile } from "node:fs/promises";

/** USER_HZ: the unit of times in /proc, fixed on the architectures that Capsule runs on (proc(5)). */
const ticksPerSecond = 100;
let bootMs: number | undefined;

/** When a process started; now, when it is gone. */
export async function startTimeOf(pid: number): Promise<Date> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
  if (stat === undefined) return new Date();
  bootMs ??= Number(/^btime ([0-9]+)$/m.exec(await readFile("/proc/stat", "utf8"))?.[1] ?? 0) * 1000;
  // The name in parentheses may hold anything; field 22 is the 20th after it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return new Date(bootMs + (Number(fields[19] ?? 0) * 1000) / ticksPerSecond);
}
