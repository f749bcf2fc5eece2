/** Tells those who drive or watch that something in the store changed. Sent after the change is durable. */

export type Change =
  | { readonly kind: "workload"; readonly name: string; readonly uid: string }
  | { readonly kind: "workloadStatus"; readonly name: string; readonly uid: string }
  | { readonly kind: "workloadGone"; readonly name: string; readonly uid: string }
  | { readonly kind: "volume"; readonly name: string; readonly volumeUid: string }
  | { readonly kind: "volumeStatus"; readonly name: string; readonly volumeUid: string }
  | { readonly kind: "volumeGone"; readonly name: string; readonly volumeUid: string }
  | { readonly kind: "event"; readonly sequence: number }
  | { readonly kind: "keys" }
  | { readonly kind: "registries" };

export class ChangeFeed {
  readonly #listeners = new Set<(change: Change) => void>();

  /** Returns what ends the subscription. Listeners must not throw and must not block. */
  subscribe(listener: (change: Change) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  publish(change: Change): void {
    for (const listener of this.#listeners) listener(change);
  }
}
