/** Workloads that are stopped for a restore. They start again whatever becomes of capsuled meanwhile: the store knows them. */
import type { Store } from "../../store/store.ts";

const key = "workloads-stopped-for-restore";

export class StoppedUsers {
  readonly #store: Store;
  readonly #now: () => Date;

  constructor(store: Store, now: () => Date) {
    this.#store = store;
    this.#now = now;
  }

  /** Wants those stopped that run with a volume; returns their names. */
  stop(volume: string): string[] {
    const { workloads, volumeClaims } = this.#store;
    return this.#store.transaction(() => {
      const names = volumeClaims
        .users(volume)
        .map(({ name }) => name)
        .filter((name) => workloads.get(name)?.desired === "running");
      for (const name of names) workloads.setDesired(name, "stopped", this.#now());
      if (names.length > 0) this.#write([...this.#read(), ...names]);
      return names;
    });
  }

  startAgain(names: readonly string[]): void {
    if (names.length === 0) return;
    const { workloads } = this.#store;
    this.#store.transaction(() => {
      for (const name of names) {
        const record = workloads.get(name);
        if (record?.desired === "stopped" && !record.deleting) workloads.requestRestart(name, this.#now());
      }
      this.#write(this.#read().filter((name) => !names.includes(name)));
    });
  }

  /** At a start of capsuled, which ends every restore. */
  startLeft(): void {
    this.startAgain(this.#read());
  }

  #read(): string[] {
    return JSON.parse(this.#store.meta.get(key) ?? "[]") as string[];
  }

  #write(names: readonly string[]): void {
    this.#store.meta.set(key, JSON.stringify(names));
  }
}
