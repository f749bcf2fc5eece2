/** What handlers know of a call beside its request. */
import { createContextKey, type HandlerContext } from "@connectrpc/connect";
import type { Caller } from "../auth/gate.ts";

export interface Call extends Caller {
  readonly peerAddress: string;
  /** Aborts when the caller goes, the server stops or the caller's key is removed. */
  readonly signal: AbortSignal;
}

const nobody: Call = { certificate: undefined, key: undefined, peerAddress: "", signal: new AbortController().signal };

/** Set by the gate for every call that it lets in. */
export const callKey = createContextKey<Call>(nobody, { description: "who calls" });

export function callOf(context: HandlerContext): Call {
  return context.values.get(callKey);
}
