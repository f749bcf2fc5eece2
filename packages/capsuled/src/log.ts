import { type Logger, pino } from "pino";

/** capsuled's log: a line of JSON each on standard output, which capsule-init keeps. Level by CAPSULE_LOG. */
export function createLogger(): Logger {
  return pino({
    level: process.env["CAPSULE_LOG"] ?? "info",
    base: null,
    // capsule-init stamps each line.
    timestamp: false,
    formatters: { level: (label) => ({ level: label }) },
  });
}
