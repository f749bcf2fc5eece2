/** The last values of something measured, and a graph of them. */

/** Values are kept for the widest terminal that graphs are made for. */
const mostValues = 240;

/** Oldest first; `undefined` is a gap: nothing was heard then. */
export type Series = readonly (number | undefined)[];

export function append(series: Series, value: number | undefined): Series {
  return [...series.slice(-(mostValues - 1)), value];
}

const bars = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"] as const;

/**
 * The newest `width` values as `height` rows of text, the newest at the right. A value of `top` fills a column; anything
 * above 0 shows at least as the lowest bar, a gap as "·" on the ground.
 */
export function graph(series: Series, width: number, height: number, top: number): string[] {
  const shown = series.slice(-width);
  const steps = height * 8;
  const heights = shown.map((value) => {
    if (value === undefined) return undefined;
    if (!(value > 0) || !(top > 0)) return 0;
    return Math.min(steps, Math.max(1, Math.round((value / top) * steps)));
  });
  return Array.from({ length: height }, (_, row) => {
    const ground = (height - 1 - row) * 8;
    const cells = heights.map((full) => {
      if (full === undefined) return ground === 0 ? "·" : " ";
      return bars[Math.max(0, Math.min(8, full - ground))] ?? " ";
    });
    return cells.join("").padStart(width);
  });
}

/** The top of a graph for values that have no limit of their own: the power of two at or above the highest, `least` at least. */
export function topOf(series: Series, width: number, least: number): number {
  const highest = Math.max(least, ...series.slice(-width).map((value) => value ?? 0));
  return 2 ** Math.ceil(Math.log2(highest));
}
