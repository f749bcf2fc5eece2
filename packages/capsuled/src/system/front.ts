/** What only a machine has and a namespace has not: a console. (Its power button is capsule-init's.) */
import { hostname } from "node:os";
import type { Logger } from "pino";
import { type ConsoleFacts, startConsole } from "./console.ts";
import { ownAddresses } from "./usage.ts";

export function startFront(
  facts: () => Pick<ConsoleFacts, "title" | "shortId" | "version" | "port" | "fingerprint" | "notices" | "showLogs">,
  log: Logger,
): void {
  startConsole({
    facts: () => ({ ...facts(), name: hostname(), addresses: reachable(ownAddresses()) }),
    logDir: "/perm/log",
    log,
  });
}

/** IPv4 first; addresses of the link alone are of no use without the name of a link. */
function reachable(addresses: readonly string[]): string[] {
  const usable = addresses.filter((address) => !address.startsWith("fe80:"));
  return [...usable.filter((address) => !address.includes(":")), ...usable.filter((address) => address.includes(":"))];
}
