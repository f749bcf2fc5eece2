/** What an RPC error means to the person at the terminal. */
import { BadRequestSchema, ErrorInfoSchema } from "@capsule/api";
import { Code, ConnectError } from "@connectrpc/connect";
import { CliError, exitCode } from "./errors.ts";

const codes: Partial<Record<Code, number>> = {
  [Code.NotFound]: exitCode.notFound,
  [Code.Unauthenticated]: exitCode.refused,
  [Code.PermissionDenied]: exitCode.refused,
  [Code.AlreadyExists]: exitCode.conflict,
  [Code.DeadlineExceeded]: exitCode.timedOut,
};

/** The fields that a request had wrong, with the server's paths. */
export function violationsOf(error: unknown): { readonly path: string; readonly description: string }[] {
  if (!(error instanceof ConnectError)) return [];
  return error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => ({ path: field, description })));
}

/** The server's word for programs, such as PORT_TAKEN. */
export function reasonOf(error: unknown): string | undefined {
  return error instanceof ConnectError ? error.findDetails(ErrorInfoSchema)[0]?.reason : undefined;
}

export function metadataOf(error: unknown): Readonly<Record<string, string>> {
  return error instanceof ConnectError ? (error.findDetails(ErrorInfoSchema)[0]?.metadata ?? {}) : {};
}

/** Codes of the library for a connection that broke under a call; capsules send them with a reason, or not at all. */
const lost: ReadonlySet<Code> = new Set([Code.Unavailable, Code.Aborted, Code.Canceled, Code.Unknown]);

/** Whether only the connection is at fault: what was asked may be done or not. */
export function isConnectionLoss(error: unknown): boolean {
  return error instanceof ConnectError && lost.has(error.code) && reasonOf(error) === undefined;
}

/** Any error as one to end the program with. `host` is who was called. */
export function toCliError(error: unknown, host: string): Error {
  if (!(error instanceof ConnectError)) return error instanceof Error ? error : new Error(String(error));
  if (error.cause instanceof CliError) return error.cause;
  if (isConnectionLoss(error)) {
    const message = `The connection to ${host} was lost: ${error.rawMessage}. What was asked of it may still be done.`;
    return new CliError(message, exitCode.failed, { cause: error });
  }
  if (error.code === Code.DeadlineExceeded && error.findDetails(ErrorInfoSchema).length === 0) {
    const message = `${host} did not answer in time. What was asked of it may still be done.`;
    return new CliError(message, exitCode.timedOut, { cause: error });
  }
  return new CliError(error.rawMessage, codes[error.code] ?? exitCode.failed, { cause: error });
}
