/** Snapshot schedules: when the next one is due. Pure. */

const hourMs = 3_600_000;

/** Time between two snapshots of a schedule, in milliseconds. */
export const schedules: Readonly<Record<string, number>> = {
  hourly: hourMs,
  daily: 24 * hourMs,
  weekly: 7 * 24 * hourMs,
};

export const defaultKeep = 5;

export function isSchedule(text: string): boolean {
  return text === "" || Object.hasOwn(schedules, text);
}

/**
 * When the next snapshot is due: at the first full hour, day or week (from Monday) of UTC after the last one, or after the
 * volume was made. What was missed, because the capsule was off, is due once, at once. Undefined without a schedule.
 */
export function nextDue(schedule: string, last: Date): Date | undefined {
  const period = Object.hasOwn(schedules, schedule) ? schedules[schedule] : undefined;
  if (period === undefined) return undefined;
  // 1970-01-01 was a Thursday: weeks begin four days later.
  const offset = schedule === "weekly" ? 4 * 24 * hourMs : 0;
  return new Date((Math.floor((last.getTime() - offset) / period) + 1) * period + offset);
}

/** Those that a schedule does not keep any more: all but the newest `keep`. */
export function retired<T extends { readonly createdAt: Date }>(snapshots: readonly T[], keep: number): T[] {
  return [...snapshots].sort((a, b) => b.createdAt.getTime() - a.createdAt.getTime()).slice(keep);
}
