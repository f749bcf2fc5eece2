import { type Logger, pino } from "pino";
import { CapsuleError, messageOf } from "./errors.ts";
import { ToolError } from "./tool.ts";

/** capsuled's log: a line of JSON each on standard output, which capsule-init keeps. Level by CAPSULE_LOG. */
export function createLogger(): Logger {
  return pino({
    level: process.env["CAPSULE_LOG"] ?? "info",
    base: null,
    // capsule-init stamps each line.
    timestamp: false,
    // Ours say all in their words; the stack of an unexpected one is what finds the fault.
    serializers: {
      err: (error: unknown) =>
        error instanceof CapsuleError ? briefly(error) : pino.stdSerializers.err(error as Error),
    },
    formatters: { level: (label) => ({ level: label }) },
  });
}

function briefly(error: CapsuleError): object {
  const { kind, reason, message, cause } = error;
  return {
    kind,
    reason,
    message,
    ...(cause === undefined ? {} : { cause: messageOf(cause) }),
    ...outputOf(error),
    ...outputOf(cause),
  };
}

/** What a tool said: people are told that it is here. */
function outputOf(error: unknown): object {
  return error instanceof ToolError ? { output: `${error.stdout}${error.stderr}`.slice(-4_000) } : {};
}
