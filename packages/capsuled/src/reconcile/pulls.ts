/**
 * Fetches images for the reconciler, beside it: a pull may take as long as it wants. Workloads that want the same image
 * share one pull; it ends when nobody wants it any more. At most three at once from one registry, so that one that hangs
 * delays only its own images; and one from which nothing comes for a minute is given up.
 */
import { CapsuleError } from "../errors.ts";
import type { ImageInfo, ImageStore, PullProgress, RegistryAccess } from "../runtime/images.ts";

export interface PullsOptions {
  readonly images: ImageStore;
  readonly accessOf: (registryHost: string) => RegistryAccess | undefined;
  /** How long a pull may be silent, in milliseconds; default 60,000. */
  readonly stallMs?: number;
}

/** One who waits for an image. Callbacks must not throw. */
export interface Waiter {
  readonly onProgress: (progress: PullProgress) => void;
  readonly onDone: (result: { readonly image: ImageInfo } | { readonly error: unknown }) => void;
}

interface Pull {
  readonly waiters: Map<string, Waiter>;
  readonly abort: AbortController;
}

const pullsPerRegistry = 3;

export class Pulls {
  readonly #images: ImageStore;
  readonly #accessOf: (registryHost: string) => RegistryAccess | undefined;
  readonly #stallMs: number;
  readonly #pulls = new Map<string, Pull>();
  readonly #running = new Map<string, number>();
  readonly #queued = new Map<string, (() => void)[]>();

  constructor({ images, accessOf, stallMs = 60_000 }: PullsOptions) {
    this.#images = images;
    this.#accessOf = accessOf;
    this.#stallMs = stallMs;
  }

  /** Whether this one waits for this image. */
  isWaiting(uid: string, reference: string): boolean {
    return this.#pulls.get(reference)?.waiters.has(uid) === true;
  }

  /** Wants an image for a workload; a wish for another image by the same workload ends. */
  want(uid: string, reference: string, waiter: Waiter): void {
    for (const other of this.#pulls.keys()) if (other !== reference) this.#leave(uid, other);
    const pull = this.#pulls.get(reference);
    if (pull !== undefined) {
      pull.waiters.set(uid, waiter);
      return;
    }
    const made: Pull = { waiters: new Map([[uid, waiter]]), abort: new AbortController() };
    this.#pulls.set(reference, made);
    void this.#run(reference, made);
  }

  /** The workload wants no image any more. */
  forget(uid: string): void {
    for (const reference of [...this.#pulls.keys()]) this.#leave(uid, reference);
  }

  stop(): void {
    for (const { waiters, abort } of this.#pulls.values()) {
      waiters.clear();
      abort.abort();
    }
  }

  #leave(uid: string, reference: string): void {
    const pull = this.#pulls.get(reference);
    if (pull?.waiters.delete(uid) !== true || pull.waiters.size > 0) return;
    this.#pulls.delete(reference);
    pull.abort.abort(new CapsuleError("unavailable", `The pull of ${reference} is not wanted any more.`));
  }

  async #run(reference: string, pull: Pull): Promise<void> {
    const host = this.#images.registryOf(reference);
    let result: { readonly image: ImageInfo } | { readonly error: unknown };
    try {
      await this.#seat(host);
      try {
        pull.abort.signal.throwIfAborted();
        result = { image: await this.#pull(reference, host, pull) };
      } finally {
        this.#leaveSeat(host);
      }
    } catch (error) {
      result = { error };
    }
    if (this.#pulls.get(reference) === pull) this.#pulls.delete(reference);
    for (const waiter of pull.waiters.values()) waiter.onDone(result);
  }

  async #pull(reference: string, host: string, { waiters, abort }: Pull): Promise<ImageInfo> {
    const giveUp = (): void =>
      abort.abort(
        new CapsuleError("timeout", `Registry ${host} sent nothing of ${reference} for ${this.#stallMs / 1000} s.`, {
          reason: "PULL_STALLED",
        }),
      );
    let stall = setTimeout(giveUp, this.#stallMs);
    let done = -1n;
    let step = "";
    const onProgress = (progress: PullProgress): void => {
      if (progress.doneBytes !== done || progress.step !== step) {
        done = progress.doneBytes;
        step = progress.step;
        clearTimeout(stall);
        // Unpacking is the capsule's own work, of any length.
        if (step !== "unpacking") stall = setTimeout(giveUp, this.#stallMs);
      }
      for (const waiter of waiters.values()) waiter.onProgress(progress);
    };
    try {
      return await this.#images.pull(reference, this.#accessOf(host), onProgress, abort.signal);
    } catch (error) {
      throw abort.signal.aborted ? abort.signal.reason : error;
    } finally {
      clearTimeout(stall);
    }
  }

  async #seat(host: string): Promise<void> {
    const running = this.#running.get(host) ?? 0;
    if (running < pullsPerRegistry) {
      this.#running.set(host, running + 1);
      return;
    }
    await new Promise<void>((resolve) => this.#queued.set(host, [...(this.#queued.get(host) ?? []), resolve]));
  }

  /** The seat goes to the next in the queue, or is free. */
  #leaveSeat(host: string): void {
    const [next, ...rest] = this.#queued.get(host) ?? [];
    if (rest.length > 0) this.#queued.set(host, rest);
    else this.#queued.delete(host);
    if (next !== undefined) {
      next();
      return;
    }
    const running = (this.#running.get(host) ?? 1) - 1;
    if (running > 0) this.#running.set(host, running);
    else this.#running.delete(host);
  }
}
