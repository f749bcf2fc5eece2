/** Long streams over connections that break. */
import { setTimeout as sleep } from "node:timers/promises";
import { bytes, note } from "./output.ts";
import { isConnectionLoss } from "./rpc-errors.ts";
import { type Capsule, withCapsule } from "./session.ts";

/** How long a connection may be away before it is given up, in milliseconds. */
const patienceMs = 5 * 60_000;
const retryMs = 1_000;

/**
 * Runs an attempt again and again while only the connection is at fault and something comes through in between: what
 * `doneBytes` tells. `also` tells of further errors that another attempt may get over.
 */
export async function persistently(
  chosen: string | undefined,
  doneBytes: () => number,
  attempt: (capsule: Capsule) => Promise<void>,
  also: (error: unknown) => boolean,
  isRepeatable = true,
): Promise<void> {
  let last = -1;
  let deadline = 0;
  let wasThere = false;
  for (;;) {
    let failure: unknown;
    try {
      await withCapsule(chosen, async (capsule) => {
        await attempt(capsule).catch((error: unknown) => {
          failure = error;
          throw error;
        });
      });
      return;
    } catch (error) {
      if (doneBytes() !== last) deadline = Date.now() + patienceMs;
      last = doneBytes();
      // Without a failure of its own the attempt never got through: the capsule could not be reached. It may be starting again.
      const isBroken: boolean = failure === undefined ? wasThere : isConnectionLoss(failure);
      wasThere ||= isBroken;
      if (!isRepeatable || !(isBroken || also(failure)) || Date.now() > deadline) throw error;
      note(`${error instanceof Error ? error.message : String(error)}; going on at ${bytes(last)}`);
      await sleep(retryMs);
    }
  }
}
