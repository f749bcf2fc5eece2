/**
 * The errors of capsuled's own making. They say what happened, to which object, why, and what to do next; the server
 * turns them into RPC codes in one place (server/errors.ts).
 */

/** One wrong field of a request. `path` is that of the manifest, such as `container.ports[1].hostPort`. */
export interface FieldViolation {
  readonly path: string;
  readonly description: string;
}

/** Closed set: each has one RPC code. */
export type ErrorKind =
  /** The request is wrong in itself. */
  | "invalid"
  | "notFound"
  /** It clashes with something that exists: a port, a name, a holder. */
  | "conflict"
  /** Right in itself, but not in the present state. */
  | "precondition"
  /** Not for this caller. */
  | "denied"
  | "unauthenticated"
  /** A limit or a full disk. */
  | "exhausted"
  /** Something outside is away; trying again may help. */
  | "unavailable"
  | "timeout"
  | "unimplemented"
  /** A fault of ours or of a tool that we drive. */
  | "internal";

export interface CapsuleErrorOptions {
  readonly cause?: unknown;
  /** UPPER_SNAKE_CASE word for programs, such as PORT_TAKEN. */
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly violations?: readonly FieldViolation[];
}

export class CapsuleError extends Error {
  override readonly name = "CapsuleError";
  readonly kind: ErrorKind;
  readonly reason: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];

  constructor(kind: ErrorKind, message: string, options: CapsuleErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.reason = options.reason;
    this.metadata = options.metadata ?? {};
    this.violations = options.violations ?? [];
  }
}

/** The message of anything thrown, for a status or a log line. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
