/** What the reconciler remembers of a workload between passes; lost with capsuled, and not needed after it. */
import { backoffMs, healthyRunMs } from "../backoff.ts";

export class Memory {
  /** What is remembered is of this generation: a new spec starts without a record. */
  generation = 0;
  failure: { readonly message: string; readonly retryAt: Date } | undefined;
  /** Digest that a pull for this generation gave. */
  pulled: string | undefined;
  /** Bytes of a pull under way. */
  progress: { readonly doneBytes: bigint; readonly totalBytes: bigint } | undefined;
  /** What the operator had asked for at the last pass: a new request does not wait for the end of a pause. */
  requests = "";
  #failures = 0;

  /** Forgets failures when the generation is another one. */
  useGeneration(generation: number): void {
    if (this.generation === generation) return;
    this.generation = generation;
    this.pulled = undefined;
    this.clearFailure();
  }

  clearFailure(): void {
    this.failure = undefined;
    this.#failures = 0;
  }

  /** Notes a failed try: the next one waits, longer each time. Returns the number of failures in a row. */
  failed(message: string, now: Date): number {
    this.#failures++;
    this.failure = { message, retryAt: new Date(now.getTime() + backoffMs(this.#failures)) };
    return this.#failures;
  }

  /** As `failed`, for a run that ended: one that was long enough starts the row anew. */
  runEnded(message: string, ranMs: number, now: Date): number {
    if (ranMs >= healthyRunMs) this.#failures = 0;
    return this.failed(message, now);
  }
}
