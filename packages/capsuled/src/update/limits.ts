/** How long a version may be on trial. Pure. */
import type { FieldViolation } from "../errors.ts";

const minuteMs = 60_000;
const minConfirmWithinMs = minuteMs;
/** Below what capsule-init waits for (native/capsule-init/src/pid1/trial.rs). */
const maxConfirmWithinMs = 25 * minuteMs;
/** When nobody says another, and of a version whose record could not be read; capsule-init gives up after 30. */
export const defaultConfirmWithinMs = 15 * minuteMs;

/** What is wrong with these, in milliseconds. */
export function limitFaults(
  autoConfirmMs: number | undefined,
  confirmWithinMs: number = defaultConfirmWithinMs,
): FieldViolation[] {
  const violations = [];
  if (confirmWithinMs < minConfirmWithinMs || confirmWithinMs > maxConfirmWithinMs)
    violations.push({ path: "confirmWithin", description: "1 to 25 minutes are possible" });
  // It takes a while until there is something that can be healthy.
  if (autoConfirmMs !== undefined && (autoConfirmMs < 0 || autoConfirmMs > confirmWithinMs - minuteMs / 2))
    violations.push({
      path: "autoConfirm",
      description: "at least half a minute shorter than confirmWithin (15 minutes unless told), or it never comes",
    });
  return violations;
}
