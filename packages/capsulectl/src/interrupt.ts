import { constants } from "node:os";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Runs `cleanup` when a signal ends the program. The answer takes it back. */
export function onInterrupt(cleanup: () => void): () => void {
  const handlers = signals.map((signal) => {
    const handler = (): void => {
      try {
        cleanup();
      } finally {
        process.exit(128 + constants.signals[signal]);
      }
    };
    process.once(signal, handler);
    return () => void process.off(signal, handler);
  });
  return () => {
    for (const off of handlers) off();
  };
}
