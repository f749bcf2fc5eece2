/** Errors become RPC codes here and nowhere else, with details of google.rpc that programs can read. */

import { BadRequestSchema, ErrorInfoSchema } from "@capsule/api";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Logger } from "pino";
import { CapsuleError, type ErrorKind } from "../errors.ts";

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

/** The name of the code that an error becomes, such as "PermissionDenied". */
export function codeNameOf(error: unknown): string {
  if (error instanceof ConnectError) return Code[error.code];
  return Code[error instanceof CapsuleError ? codes[error.kind] : Code.Internal];
}

/** What the caller is told of anything thrown. What is unknown is logged, and told without its words. */
export function toConnectError(error: unknown, method: string, log: Logger): ConnectError {
  if (error instanceof ConnectError) return error;
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
  const result = new ConnectError(error.message, codes[error.kind], undefined, undefined, error);
  if (error.reason !== undefined) {
    result.details.push({
      desc: ErrorInfoSchema,
      value: { reason: error.reason, domain: "capsule", metadata: { ...error.metadata } },
    });
  }
  if (error.violations.length > 0) {
    const fieldViolations = error.violations.map(({ path, description }) => ({ field: path, description }));
    result.details.push({ desc: BadRequestSchema, value: { fieldViolations } });
  }
  return result;
}
