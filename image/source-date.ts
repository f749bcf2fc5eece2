/**
 * The time that everything in an image bears, so that the same inputs give the same bytes: $SOURCE_DATE_EPOCH
 * (https://reproducible-builds.org/specs/source-date-epoch/), else the day when trixie was released.
 */
export const sourceDate = new Date(Number(process.env["SOURCE_DATE_EPOCH"] ?? Date.UTC(2025, 7, 9) / 1000) * 1000);
