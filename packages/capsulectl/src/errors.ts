/** Errors of the CLI, and the exit code of each: scripts rely on them. */

export const exitCode = {
  done: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  conflict: 5,
  timedOut: 6,
} as const;

/** Ends the program with a message for people. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly exitCode: number;

  constructor(message: string, code: number = exitCode.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = code;
  }
}

/** Ends the program with this exit code and no word: all has been said. */
export class QuietExit extends Error {
  override readonly name = "QuietExit";
  readonly exitCode: number;

  constructor(code: number) {
    super(`exit ${code}`);
    this.exitCode = code;
  }
}
