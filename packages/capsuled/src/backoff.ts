/** How long to wait after the n-th failure in a row, in milliseconds: 250, 500, 1,000 … up to a minute. */
export function backoffMs(failures: number): number {
  if (failures < 1) return 0;
  return Math.min(maxBackoffMs, firstBackoffMs * 2 ** Math.min(failures - 1, 20));
}

const firstBackoffMs = 250;
const maxBackoffMs = 60_000;

/** A run at least this long, in milliseconds, ends a row of failures. */
export const healthyRunMs = 30_000;
