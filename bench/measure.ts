import { readFileSync } from "node:fs";

/** One line of the table. */
export interface Row {
  readonly what: string;
  readonly ours: string;
  /** The bare tool's figure on the same machine in the same run; empty where there is none. */
  readonly against: string;
  readonly goal: string;
  readonly result: string;
  readonly met: boolean;
}

/** Wall time of one call, in milliseconds. */
export async function time(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/** Median of several runs of two things in turn, so that both see the same machine. */
export async function compare(
  runs: number,
  ours: (i: number) => Promise<unknown>,
  bare: (i: number) => Promise<unknown>,
): Promise<{ ours: number; bare: number }> {
  const times = { ours: [] as number[], bare: [] as number[] };
  for (let i = 0; i < runs; i++) {
    times.ours.push(await time(() => ours(i)));
    times.bare.push(await time(() => bare(i)));
  }
  return { ours: median(times.ours), bare: median(times.bare) };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** A row of two times, of which ours may be at most `factor` times the other. */
export function ratioRow(
  what: string,
  { ours, bare }: { ours: number; bare: number },
  against: string,
  factor: number,
): Row {
  const ratio = ours / bare;
  return {
    what,
    ours: ms(ours),
    against: `${against}: ${ms(bare)}`,
    goal: `≤ ${factor.toFixed(1)} ×`,
    result: `${ratio.toFixed(2)} ×`,
    met: ratio <= factor,
  };
}

export function ms(value: number): string {
  return value >= 10_000 ? `${(value / 1000).toFixed(1)} s` : `${Math.round(value)} ms`;
}

/** Processor time that a process has used, in seconds (proc(5), fields 14 and 15 in ticks of 10 ms). */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Bytes that cannot be compressed, the same for the same seed; `bytes` is a multiple of 4. */
export function noise(bytes: number, seed = 0): Buffer {
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4)
    data.writeUInt32LE((Math.imul(at + seed, 2_654_435_761) ^ (at >>> 7)) >>> 0, at);
  return data;
}

/** Resident memory of a process, in MB. */
export function residentMb(pid: number, field = "VmRSS"): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return (Number(new RegExp(`^${field}:\\s+([0-9]+)`, "m").exec(status)?.[1] ?? 0) * 1024) / 1e6;
}
