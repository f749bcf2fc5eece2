import { lutimes, readdir } from "node:fs/promises";
import { join } from "node:path";

/**
 * The time that everything in an image bears, so that the same inputs give the same bytes: $SOURCE_DATE_EPOCH
 * (https://reproducible-builds.org/specs/source-date-epoch/), else the day when trixie was released.
 */
export const sourceDate = new Date(Number(process.env["SOURCE_DATE_EPOCH"] ?? Date.UTC(2025, 7, 9) / 1000) * 1000);

/** Gives everything below a directory that time: the time of the build must not be in an image. */
export async function clampTimes(root: string): Promise<void> {
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true }))
    await lutimes(join(entry.parentPath, entry.name), sourceDate, sourceDate);
}
