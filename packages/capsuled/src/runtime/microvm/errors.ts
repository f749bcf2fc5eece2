/** What an agent says went wrong, as an error of the capsule. */
import { Code, ConnectError } from "@connectrpc/connect";
import { CapsuleError, type ErrorKind } from "../../errors.ts";

/** Words from a guest are a stranger's: no more of them than a person reads. */
const maxWords = 500;

const kinds: Partial<Record<Code, ErrorKind>> = {
  [Code.NotFound]: "notFound",
  [Code.InvalidArgument]: "invalid",
  [Code.FailedPrecondition]: "precondition",
  [Code.ResourceExhausted]: "exhausted",
};

/** `what` stands before the agent's words. */
export function translated(error: unknown, what: string): CapsuleError {
  if (error instanceof CapsuleError) return error;
  const { code, rawMessage } = ConnectError.from(error);
  const kind = kinds[code];
  const words = rawMessage.slice(0, maxWords);
  if (kind !== undefined) return new CapsuleError(kind, `${what}: ${words}`, { cause: error, reason: "GUEST_REFUSED" });
  return new CapsuleError("unavailable", `${what}: its agent does not answer (${words})`, {
    cause: error,
    reason: "GUEST_GONE",
  });
}
