/** Waits until the capsule that was installed answers: where its installer did, or wherever it is heard. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Context } from "../config.ts";
import { findMoved } from "../discovery/find.ts";
import { identify } from "../discovery/identify.ts";
import { note } from "../output.ts";

const pollMs = 1_500;
/** A tunnel's end: nobody is looked for in its place. */
const loopback = /^(127\.|\[::1\]|localhost:)/;

/** HOST:PORT; undefined when the time is over. */
export async function awaitCapsule(context: Context, timeoutMs: number): Promise<string | undefined> {
  const deadline = Date.now() + timeoutMs;
  let isToldOfStick = false;
  while (Date.now() < deadline) {
    const there = await identify(context.host).catch(() => undefined);
    if (there?.fingerprint === context.fingerprint) return context.host;
    if (there?.mode === "installer" && !isToldOfStick) {
      isToldOfStick = true;
      note(`The installer answers at ${context.host}: take out the stick, and start the machine again.`);
    }
    if (!loopback.test(context.host)) {
      const moved = await findMoved(context);
      if (moved !== undefined) return moved.endpoint;
    }
    await sleep(pollMs);
  }
  return undefined;
}
