import { constants } from "node:os";
import { CapsuleError } from "../../errors.ts";

/** The number of a signal given as "SIGTERM", "TERM", "15" or "SIGRTMIN+3" (signal(7)). Throws `invalid`. */
export function signalNumber(name: string): number {
  if (/^[0-9]{1,2}$/.test(name) && Number(name) >= 1 && Number(name) <= 64) return Number(name);
  const upper = name.toUpperCase().startsWith("SIG") ? name.toUpperCase() : `SIG${name.toUpperCase()}`;
  const known = (constants.signals as Readonly<Record<string, number | undefined>>)[upper];
  if (known !== undefined) return known;
  // The C libraries keep two of the kernel's real-time signals to themselves.
  const realTime = /^SIGRT(MIN\+?|MAX-?)([0-9]{0,2})$/.exec(upper);
  const number = realTime?.[1]?.startsWith("MIN") ? 34 + Number(realTime[2]) : 64 - Number(realTime?.[2]);
  if (realTime !== null && number >= 34 && number <= 64) return number;
  throw new CapsuleError("invalid", `"${name}" is no signal.`, { reason: "UNKNOWN_SIGNAL" });
}
