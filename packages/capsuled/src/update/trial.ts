/** Watches a version on trial, and gives a verdict. capsule-init watches capsuled meanwhile (native/…/pid1/trial.rs). */
import type { Logger } from "pino";
import { messageOf } from "../errors.ts";
import { faultsOf, type Health } from "./health.ts";
import { type Fault, type Verdict, verdictOf } from "./plan.ts";
import type { Before } from "./state.ts";

const intervalMs = 5_000;

export interface TrialOptions {
  readonly confirmWithinMs: number;
  readonly autoConfirmMs: number | undefined;
  readonly before: Before;
  observe(): Promise<Health>;
  uptimeMs(): number;
  /** Called once, with "confirm" or "rollBack". Another one comes when this fails. */
  decided(verdict: Exclude<Verdict, { kind: "wait" }>): Promise<void>;
  readonly log: Logger;
}

export class Trial {
  readonly #options: TrialOptions;
  #timer: NodeJS.Timeout | undefined;
  #faults: readonly Fault[] = [{ kind: "api", message: "it was not looked at yet" }];
  #healthySinceMs: number | undefined;
  #reachableAtMs: number;

  constructor(options: TrialOptions) {
    this.#options = options;
    this.#reachableAtMs = options.uptimeMs();
  }

  get faults(): readonly Fault[] {
    return this.#faults;
  }

  start(): void {
    this.#timer ??= setTimeout(() => void this.#pass(), intervalMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Looks now. */
  async look(): Promise<readonly Fault[]> {
    const { before, observe, uptimeMs } = this.#options;
    this.#faults = faultsOf(before, await observe());
    const now = uptimeMs();
    if (!this.#faults.some(({ kind }) => kind === "network")) this.#reachableAtMs = now;
    if (this.#faults.length > 0) this.#healthySinceMs = undefined;
    else this.#healthySinceMs ??= now;
    return this.#faults;
  }

  async #pass(): Promise<void> {
    const { uptimeMs, confirmWithinMs, autoConfirmMs, decided, log } = this.#options;
    try {
      await this.look();
      const now = uptimeMs();
      const verdict = verdictOf({
        uptimeMs: now,
        faults: this.#faults,
        healthyMs: this.#healthySinceMs === undefined ? 0 : now - this.#healthySinceMs,
        unreachableMs: now - this.#reachableAtMs,
        confirmWithinMs,
        autoConfirmMs,
      });
      if (verdict.kind !== "wait" && this.#timer !== undefined) return await decided(verdict);
    } catch (error) {
      log.error({ err: error }, `the version on trial cannot be judged: ${messageOf(error)}`);
    }
    if (this.#timer !== undefined) this.#timer = setTimeout(() => void this.#pass(), intervalMs);
  }
}
