/** Who uses which volume now: uids of workloads, or words for people such as "a shell". In memory only. */
import { CapsuleError } from "../../errors.ts";

export class Holders {
  readonly #ofVolume = new Map<string, Set<string>>();
  /** The same the other way round. */
  readonly #ofHolder = new Map<string, Set<string>>();

  add(volume: string, holder: string): void {
    this.#ofVolume.set(volume, (this.#ofVolume.get(volume) ?? new Set()).add(holder));
    this.#ofHolder.set(holder, (this.#ofHolder.get(holder) ?? new Set()).add(volume));
  }

  remove(volume: string, holder: string): void {
    unpair(this.#ofVolume, volume, holder);
    unpair(this.#ofHolder, holder, volume);
  }

  removeAll(volume: string): void {
    for (const holder of this.of(volume)) this.remove(volume, holder);
  }

  of(volume: string): string[] {
    return [...(this.#ofVolume.get(volume) ?? [])];
  }

  heldBy(holder: string): string[] {
    return [...(this.#ofHolder.get(holder) ?? [])];
  }

  clear(): void {
    this.#ofVolume.clear();
    this.#ofHolder.clear();
  }
}

function unpair(map: Map<string, Set<string>>, key: string, value: string): void {
  map.get(key)?.delete(value);
  if (map.get(key)?.size === 0) map.delete(key);
}

/** For one who waits until a volume is free: trying again may help. */
export function inUseNow(volume: string, holders: readonly string[]): CapsuleError {
  return new CapsuleError("unavailable", `volume "${volume}" is in use by ${holders.join(", ")}`, {
    reason: "VOLUME_IN_USE",
    metadata: { volume },
  });
}
