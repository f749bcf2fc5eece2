import { CapsuleError } from "../errors.ts";
import type { Change } from "../store/changes.ts";
import type { Store } from "../store/store.ts";

/** A reader that is this far behind is ended: it reads again, and the capsule's memory stays bounded. */
const maxWaiting = 10_000;

/** The wanted changes of the store from now on, until the signal aborts. Subscribed when this returns. */
export function changesOf(
  store: Store,
  signal: AbortSignal,
  wanted: (change: Change) => boolean,
): AsyncIterable<Change> {
  const waiting: Change[] = [];
  let wake: () => void = () => undefined;
  const unsubscribe = store.changes.subscribe((change) => {
    if (!wanted(change)) return;
    waiting.push(change);
    if (waiting.length > maxWaiting) unsubscribe();
    wake();
  });
  const end = (): void => {
    unsubscribe();
    wake();
  };
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  return (async function* () {
    try {
      for (;;) {
        const next = waiting.shift();
        if (waiting.length >= maxWaiting) {
          throw new CapsuleError("exhausted", "You read more slowly than things change. Watch again.", {
            reason: "TOO_SLOW",
          });
        }
        if (signal.aborted) throw signal.reason;
        if (next !== undefined) {
          yield next;
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      signal.removeEventListener("abort", end);
      unsubscribe();
    }
  })();
}
