/** How a capsule is announced on its network (RFC 6763): the service's name, and what its TXT record says. */
import type { TxtData } from "dns-packet";

export const serviceType = "_capsule._tcp.local";

/** What a capsule says of itself by multicast DNS. Anybody can say it: it is a hint where to look, and no more. */
export interface Announced {
  readonly capsuleId: string;
  readonly shortId: string;
  /** At least one key is enrolled. */
  readonly adopted: boolean;
  readonly version: string;
  /** How the system runs: "namespace", "qemu", "machine" or "installer". */
  readonly mode: string;
}

/** The strings of the TXT record. `txtvers` goes up when a reader of today would read it wrongly. */
export function textOf({ capsuleId, shortId, adopted, version, mode }: Announced): string[] {
  return [
    "txtvers=1",
    `id=${capsuleId}`,
    `short=${shortId}`,
    `adopted=${adopted}`,
    `version=${version.slice(0, 64)}`,
    `mode=${mode.slice(0, 32)}`,
  ];
}

const CAPSULE_ID = /^[a-z2-7]{26}$/;
const SHORT_ID = /^[a-z2-7]{6}$/;

/** Whether a text can be a short id. A host name of six letters can be one too. */
export function isShortId(text: string): boolean {
  return SHORT_ID.test(text);
}

/** What a TXT record says; undefined when it is none of a capsule. */
export function announcedOf(data: TxtData): Announced | undefined {
  const pairs = new Map<string, string>();
  for (const one of Array.isArray(data) ? data : [data]) {
    const text = one.toString();
    const at = text.indexOf("=");
    // The first of a key counts (RFC 6763, section 6.4).
    if (at > 0 && !pairs.has(text.slice(0, at).toLowerCase()))
      pairs.set(text.slice(0, at).toLowerCase(), text.slice(at + 1));
  }
  const [capsuleId = "", shortId = ""] = [pairs.get("id"), pairs.get("short")];
  if (!CAPSULE_ID.test(capsuleId) || !SHORT_ID.test(shortId) || !capsuleId.startsWith(shortId)) return undefined;
  return {
    capsuleId,
    shortId,
    adopted: pairs.get("adopted") === "true",
    version: pairs.get("version") ?? "",
    mode: pairs.get("mode") ?? "",
  };
}
