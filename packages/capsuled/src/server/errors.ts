/** Errors become RPC codes here and nowhere else, with details of google.rpc that programs can read. */

import { BadRequestSchema, ErrorInfoSchema } from "@capsule/api";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Logger } from "pino";
import { CapsuleError, type ErrorKind, type FieldViolation } from "../errors.ts";

const codes: Record<ErrorKind, Code> = {
  invalid: Code.InvalidArgument,
  notFound: Code.NotFound,
  conflict: Code.AlreadyExists,
  precondition: Code.FailedPrecondition,
  denied: Code.PermissionDenied,
  unauthenticated: Code.Unauthenticated,
  exhausted: Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  timeout: Code.DeadlineExceeded,
  unimplemented: Code.Unimplemented,
  internal: Code.Internal,
};

/**
 * Errors travel in HTTP/2 trailers, the message twice: as text and inside the details. Implementations take 64 KiB of
 * them (nghttp2) and end the whole connection above; names of a request that come back in an error must not do that.
 */
const maxMessage = 2_000;
const maxDetails = 8_000;

function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}…`;
}

function boundedMetadata(metadata: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, shortened(value, 500)]));
}

/** As many as fit, the first in any case. */
function boundedViolations(violations: readonly FieldViolation[]): { field: string; description: string }[] {
  const told: { field: string; description: string }[] = [];
  let left = maxDetails;
  for (const { path, description } of violations) {
    const one = { field: shortened(path, 500), description: shortened(description, 1_000) };
    left -= one.field.length + one.description.length;
    if (left < 0) break;
    told.push(one);
  }
  return told;
}

/** The name of the code that an error becomes, such as "PermissionDenied". */
export function codeNameOf(error: unknown): string {
  if (error instanceof ConnectError) return Code[error.code];
  return Code[error instanceof CapsuleError ? codes[error.kind] : Code.Internal];
}

/** What the caller is told of anything thrown. What is unknown is logged, and told without its words. */
export function toConnectError(error: unknown, method: string, log: Logger): ConnectError {
  if (error instanceof ConnectError) {
    if (error.rawMessage.length <= maxMessage) return error;
    return new ConnectError(shortened(error.rawMessage, maxMessage), error.code, error.metadata);
  }
  if (!(error instanceof CapsuleError)) {
    if (error instanceof Error && error.name === "AbortError")
      return new ConnectError("the call was ended", Code.Canceled);
    log.error({ err: error, method }, "unexpected error in a call");
    return new ConnectError(
      "This is a fault of capsuled; its log tells more (`capsulectl capsule logs capsuled`).",
      Code.Internal,
    );
  }
  if (error.kind === "internal") log.error({ err: error, method }, "error in a call");
  const result = new ConnectError(shortened(error.message, maxMessage), codes[error.kind], undefined, undefined, error);
  // Always there: an error without it is one of the connection.
  const reason = error.reason ?? error.kind.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
  result.details.push({
    desc: ErrorInfoSchema,
    value: { reason, domain: "capsule", metadata: boundedMetadata(error.metadata) },
  });
  if (error.violations.length > 0) {
    const fieldViolations = boundedViolations(error.violations);
    result.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  return result;
}
