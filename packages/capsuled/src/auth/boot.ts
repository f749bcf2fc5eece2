/** What must be remembered from the first start of capsuled in this boot: /run is empty after a boot and not before. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Boot {
  /** Time since boot at the first start, in seconds: no change of the clock moves it. */
  readonly uptimeS: number;
  /** Nobody may claim the capsule in this boot any more, whatever the time. */
  readonly claimClosed?: boolean;
}

/** How long after its first start in a boot a capsule without keys may be claimed, in seconds. */
export const claimWindowS = 30 * 60;

/** Reads what the first start of this boot wrote, or is that first start. `isFirst` tells which. */
export function readBoot(dir: string): Boot & { readonly isFirst: boolean } {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, "boot.json");
  if (existsSync(path)) {
    try {
      return { ...(JSON.parse(readFileSync(path, "utf8")) as Boot), isFirst: false };
    } catch {
      // It appears whole or not at all; one that is damaged must not open the window again.
      return { uptimeS: uptimeS(), claimClosed: true, isFirst: false };
    }
  } else {
    const boot: Boot = { uptimeS: uptimeS() };
    writeFileSync(`${path}.new`, JSON.stringify(boot), { mode: 0o600 });
    renameSync(`${path}.new`, path);
    return { ...boot, isFirst: true };
  }
}

/** Seconds that the claim window is still open; 0 when it has closed. */
export function claimSecondsLeft(boot: Boot, uptime = uptimeS()): number {
  return boot.claimClosed === true ? 0 : Math.max(0, Math.ceil(boot.uptimeS + claimWindowS - uptime));
}

/**
 * When this boot's first start was by the clock of now, in seconds since 1970. Counted back from now, and not noted then:
 * the clock may have been wrong, and a capsule whose clock is set back must not refuse everybody until it has caught up.
 */
export function bootTimeS(boot: Boot, now: Date, uptime = uptimeS()): number {
  return Math.floor(now.getTime() / 1000 - (uptime - boot.uptimeS));
}

export function uptimeS(): number {
  return Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
}
