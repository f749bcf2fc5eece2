import { linkSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { CliError } from "./errors.ts";

const patienceMs = 5_000;
const pollMs = 20;
let taken = 0;

/**
 * Takes a lock file, which names the process that holds it; one of a process that is no more is taken over. The answer
 * gives it back. Throws CliError when another program holds it for more than five seconds.
 */
export async function lock(path: string): Promise<() => void> {
  // A link is made whole or not at all: nobody reads a lock that is still empty.
  const own = `${path}.${process.pid}.${taken++}`;
  writeFileSync(own, String(process.pid));
  try {
    for (const deadline = Date.now() + patienceMs; ; await sleep(pollMs)) {
      try {
        linkSync(own, path);
        return () => rmSync(path, { force: true });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const holder = holderOf(path);
      if (holder !== undefined && !isAlive(holder)) rmSync(path, { force: true });
      else if (Date.now() > deadline) throw new CliError(`${path} is held by process ${holder ?? "?"}`);
    }
  } finally {
    rmSync(own, { force: true });
  }
}

function holderOf(path: string): number | undefined {
  try {
    return Number(readFileSync(path, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
