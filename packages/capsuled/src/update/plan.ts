/** What a boot means for an update, and what is done about a trial: pure. */
import type { BootChoice, SlotName } from "./boot-choice.ts";
import type { Pending } from "./state.ts";

export interface BootFacts {
  /** The slot that was started. */
  readonly running: SlotName;
  /** The boot loader started it as a trial. */
  readonly isTrial: boolean;
  readonly choice: BootChoice;
  readonly pending: Pending | undefined;
  /** What the trial before said of its end; empty when it could not. */
  readonly failure: string;
  /** Another one after each start of the machine. */
  readonly bootId: string;
}

export type BootFinding =
  | { readonly kind: "nothing" }
  /** The next start of the machine tries it. */
  | { readonly kind: "staged"; readonly pending: Pending }
  /** The slot that runs has to show that it works. `pending` is undefined when /perm could not be read. */
  | { readonly kind: "trial"; readonly pending: Pending | undefined }
  /** It was confirmed, and the power went before that was written down. */
  | { readonly kind: "confirmed"; readonly pending: Pending }
  /** The one before was tried and did not stay. */
  | { readonly kind: "rolledBack"; readonly pending: Pending; readonly reason: string }
  /** The power went before it was handed to the boot loader. */
  | { readonly kind: "notTried"; readonly pending: Pending };

const silentEnd =
  "the machine went down before it was confirmed and left no word: its kernel panicked, it hung, or the power was cut";

export function findingOf({ running, isTrial, choice, pending, failure, bootId }: BootFacts): BootFinding {
  if (isTrial) return { kind: "trial", pending: pending?.slot === running ? pending : undefined };
  if (pending === undefined) return { kind: "nothing" };
  if (pending.slot === running) return { kind: "confirmed", pending };
  if (choice.trying === undefined) return { kind: "notTried", pending };
  if (choice.tries > 0) {
    if (pending.bootId === bootId) return { kind: "staged", pending };
    // A boot takes the try away, or starts it: neither was done.
    const reason = "the boot loader could not write to the boot partition, and therefore did not try it";
    return { kind: "rolledBack", pending, reason };
  }
  return { kind: "rolledBack", pending, reason: failure === "" ? silentEnd : failure };
}

/** What is not as it was before the update. */
export interface Fault {
  readonly kind: "api" | "storage" | "network" | "workload";
  /** For people. */
  readonly message: string;
}

export interface TrialFacts {
  /** Since the machine was started. */
  readonly uptimeMs: number;
  readonly faults: readonly Fault[];
  /** How long there has been no fault. */
  readonly healthyMs: number;
  /** How long the network has been away. */
  readonly unreachableMs: number;
  readonly confirmWithinMs: number;
  readonly autoConfirmMs: number | undefined;
}

export type Verdict =
  | { readonly kind: "wait" }
  | { readonly kind: "confirm" }
  | { readonly kind: "rollBack"; readonly reason: string };

/** A network that is away for so long does not come: leases and switches take seconds, some a minute. */
export const networkPatienceMs = 3 * 60_000;

export function verdictOf(facts: TrialFacts): Verdict {
  const { uptimeMs, faults, healthyMs, unreachableMs, confirmWithinMs, autoConfirmMs } = facts;
  if (autoConfirmMs !== undefined && faults.length === 0 && healthyMs >= autoConfirmMs) return { kind: "confirm" };
  const told = faults.map(({ message }) => message).join("; ");
  if (unreachableMs >= networkPatienceMs)
    return { kind: "rollBack", reason: `the network was away for ${minutes(unreachableMs)}: ${told}` };
  if (uptimeMs < confirmWithinMs) return { kind: "wait" };
  const why = faults.length > 0 ? `it was not healthy (${told})` : "nobody confirmed it";
  return { kind: "rollBack", reason: `${why} within ${minutes(confirmWithinMs)}` };
}

function minutes(ms: number): string {
  return ms >= 60_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 1_000)} s`;
}
