/**
 * A queue of keys, each handled by one worker at a time. A key that is added while it is handled is handled once more
 * afterwards; a key that waits is there once, however often it is added. `workers` limit how much is done at once; one
 * that has been at the same key for longer than `patienceMs` is waiting for something slow and no longer counts, so that
 * slow keys, however many, hold up no other.
 */
export interface QueueOptions {
  readonly workers: number;
  /** Default 3,000. */
  readonly patienceMs?: number;
  /** Must not throw. */
  readonly handle: (key: string) => Promise<void>;
}

export class KeyedQueue {
  readonly #options: Required<QueueOptions>;
  readonly #ready = new Set<string>();
  readonly #active = new Set<string>();
  readonly #timers = new Map<string, { readonly at: number; readonly timer: NodeJS.Timeout }>();
  readonly #idle = new Set<() => void>();
  #busy = 0;
  #stopped = false;

  constructor(options: QueueOptions) {
    this.#options = { patienceMs: 3_000, ...options };
  }

  add(key: string): void {
    if (this.#stopped) return;
    this.#cancelTimer(key);
    this.#ready.add(key);
    this.#dispatch();
  }

  /** Adds the key at a time; an earlier time that is set already wins. */
  addAt(key: string, at: Date): void {
    if (this.#stopped) return;
    const waiting = this.#timers.get(key);
    if (waiting !== undefined && waiting.at <= at.getTime()) return;
    this.#cancelTimer(key);
    // Node fires timers beyond 2^31 ms at once; nobody waits for a day without another look.
    const delay = Math.min(Math.max(0, at.getTime() - Date.now()), 86_400_000);
    const timer = setTimeout(() => this.add(key), delay);
    timer.unref();
    this.#timers.set(key, { at: at.getTime(), timer });
  }

  /** Takes no more keys; resolves when those being handled are done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#ready.clear();
    for (const key of [...this.#timers.keys()]) this.#cancelTimer(key);
    if (this.#active.size > 0) await new Promise<void>((resolve) => this.#idle.add(resolve));
  }

  #dispatch(): void {
    if (this.#busy >= this.#options.workers) return;
    for (const key of this.#ready) {
      if (this.#active.has(key)) continue;
      this.#ready.delete(key);
      void this.#work(key);
      if (this.#busy >= this.#options.workers) return;
    }
  }

  async #work(key: string): Promise<void> {
    this.#active.add(key);
    this.#busy++;
    let counts = true;
    const release = (): void => {
      if (!counts) return;
      counts = false;
      this.#busy--;
    };
    const patience = setTimeout(() => {
      release();
      this.#dispatch();
    }, this.#options.patienceMs);
    try {
      await this.#options.handle(key);
    } finally {
      clearTimeout(patience);
      release();
      this.#active.delete(key);
      if (this.#active.size === 0) {
        for (const resolve of this.#idle) resolve();
        this.#idle.clear();
      }
      this.#dispatch();
    }
  }

  #cancelTimer(key: string): void {
    clearTimeout(this.#timers.get(key)?.timer);
    this.#timers.delete(key);
  }
}
