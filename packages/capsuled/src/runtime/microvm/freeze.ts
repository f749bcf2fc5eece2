/** A filesystem in a guest brought to rest by its agent, which thaws it when the call ends: also when capsuled does. */
import { CapsuleError } from "../../errors.ts";
import type { Agent } from "./agent.ts";
import { translated } from "./errors.ts";

/** Longer than any snapshot takes, in milliseconds: a frozen filesystem holds every writer. */
const maxFrozenMs = 20_000;

/** Throws `unavailable` when it could not be frozen, or thawed before `work` was done. */
export async function whileFrozen<T>({ client }: Agent, volume: number, work: () => Promise<T>): Promise<T> {
  const abort = new AbortController();
  const stream = client.freezeVolume({ volume }, { signal: abort.signal, timeoutMs: maxFrozenMs });
  const answers = stream[Symbol.asyncIterator]();
  try {
    const first = await answers.next().catch((error: unknown) => {
      throw translated(error, "The volume could not be brought to rest");
    });
    if (first.done === true) throw notAtRest();
    let isFrozen = true;
    const ended = (): void => {
      isFrozen = false;
    };
    answers.next().then(ended, ended);
    const result = await work();
    if (!isFrozen) throw notAtRest();
    return result;
  } finally {
    abort.abort();
  }
}

function notAtRest(): CapsuleError {
  return new CapsuleError("unavailable", "The volume did not stay at rest for long enough. Try again.", {
    reason: "NOT_FROZEN",
  });
}
