/** What handlers know of a call beside its request. */
import { createContextKey, type HandlerContext } from "@connectrpc/connect";
import type { Caller } from "../auth/gate.ts";

export interface Call extends Caller {
  readonly peerAddress: string;
  /** Aborts when the caller goes, the server stops or the caller's key is removed. */
  readonly signal: AbortSignal;
  readonly audit: CallAudit;
}

/** What a handler has to say in the audit log of a mutating call, beside what its request names. */
export interface CallAudit {
  readonly objects: string[];
  /** Of the entry that is written at the end of the call, in place of "ok". */
  result: string | undefined;
  /** Writes an entry now, for a call that goes on. */
  now(result: string): void;
}

const nobody: Call = {
  certificate: undefined,
  key: undefined,
  peerAddress: "",
  signal: new AbortController().signal,
  // Asked from within (own-api.ts): nobody changes anything so.
  get audit() {
    return { objects: [], result: undefined, now: () => undefined };
  },
};

/** Set by the gate for every call that it lets in. */
export const callKey = createContextKey<Call>(nobody, { description: "who calls" });

export function callOf(context: HandlerContext): Call {
  return context.values.get(callKey);
}
