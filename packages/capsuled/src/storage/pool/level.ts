/** How full a pool is, in steps that somebody is told of. Pure. */
import type { PoolUsage } from "./backend.ts";

/** In percent. */
export const thresholds = [80, 90, 95] as const;
/** A step is left only when it is undershot by so many percent: what goes up and down around it is told once. */
const slack = 2;

/** The highest threshold that is reached; 0 below all. `before`: what was told last. */
export function levelOf({ sizeBytes, usedBytes, metadataRatio }: PoolUsage, before: number): number {
  const percent = Math.max(sizeBytes === 0 ? 0 : (usedBytes / sizeBytes) * 100, metadataRatio * 100);
  const reached = thresholds.filter((threshold) => percent >= threshold).at(-1) ?? 0;
  if (reached >= before) return reached;
  const kept = thresholds.filter((threshold) => threshold <= before && percent >= threshold - slack).at(-1) ?? 0;
  return Math.max(reached, kept);
}
