/** Where the logs of a workload are, below the directory that holds one for each workload. */
import { join } from "node:path";
import type { LogPlace } from "./files.ts";

const name = "current.log";

/** What the workload writes. */
export function payloadLog(workloadsDir: string, uid: string): LogPlace {
  return { dir: join(workloadsDir, uid, "log"), name };
}

/** The console of a microVM's kernel, and what its monitor says. */
export function consoleLog(workloadsDir: string, uid: string): LogPlace {
  return { dir: join(workloadsDir, uid, "console"), name };
}
