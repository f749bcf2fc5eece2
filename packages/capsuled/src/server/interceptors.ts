/** Around every call, from the outside in: errors become codes, the gate decides, the audit log writes down. */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { ConnectError, Interceptor, StreamRequest, UnaryRequest } from "@connectrpc/connect";
import type { Logger } from "pino";
import type { Gate } from "../auth/gate.ts";
import type { KeyRecord } from "../store/keys.ts";
import type { Store } from "../store/store.ts";
import { accessOf, isMutating, nameOf } from "./access.ts";
import { objectsOf } from "./audit.ts";
import { type CallAudit, callKey } from "./call.ts";
import { codeNameOf, toConnectError } from "./errors.ts";
import { peerKey } from "./peer.ts";

type Request = UnaryRequest | StreamRequest;

/** Of a name or what a handler says of its object, in the audit log. */
const maxObjectLength = 200;

/** Turns what handlers throw, also in the middle of a stream, into codes. */
export function errorsInterceptor(log: Logger): Interceptor {
  return (next) => async (request) => {
    const convert = (error: unknown): ConnectError => toConnectError(error, nameOf(request.method), log);
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: converted(response.message, convert) } : response;
    } catch (error) {
      throw convert(error);
    }
  };
}

async function* converted<T>(messages: AsyncIterable<T>, convert: (error: unknown) => ConnectError): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw convert(error);
  }
}

/** Lets the call in or throws; tells the handler who calls. */
export function gateInterceptor(gate: Gate, store: Store, log: Logger): Interceptor {
  return (next) => async (request) => {
    const { certificate, address } = request.contextValues.get(peerKey);
    try {
      const caller = gate.admit(accessOf(request.method), certificate, request.header.get("authorization"));
      const signals =
        caller.key === undefined || !request.stream
          ? [request.signal]
          : [request.signal, gate.untilRemoved(caller.key)];
      const signal = signals.length === 1 ? request.signal : AbortSignal.any(signals);
      const audit: CallAudit = {
        objects: [],
        result: undefined,
        now: (result) => writeAudit({ store, log }, request, { key: caller.key, address }, audit.objects, result),
      };
      request.contextValues.set(callKey, { ...caller, peerAddress: address, signal, audit });
    } catch (error) {
      // Strangers are not written down: they could push everything else out of the log.
      const key = gate.keyOf(certificate);
      if (key !== undefined && isMutating(request.method)) {
        writeAudit({ store, log }, request, { key, address }, [], codeNameOf(error));
      }
      throw error;
    }
    return await next(request);
  };
}

/** One entry for each mutating call, when it has ended. */
export function auditInterceptor(gate: Gate, store: Store, log: Logger): Interceptor {
  return (next) => async (request) => {
    if (!isMutating(request.method)) return await next(request);
    const call = request.contextValues.get(callKey);
    const who = {
      // Who claims the capsule has a key only afterwards.
      get key() {
        return call.key ?? gate.keyOf(call.certificate);
      },
      address: call.peerAddress,
    };
    let named: string[] = [];
    const observed = observedRequest(request, (found) => {
      named = found;
    });
    const ended = (error?: unknown): void => {
      const result = error === undefined ? (call.audit.result ?? "ok") : codeNameOf(error);
      writeAudit({ store, log }, request, who, [...named, ...call.audit.objects], result);
    };
    try {
      const response = await next(observed);
      if (response.stream) return { ...response, message: observedEnd(response.message, ended) };
      ended();
      return response;
    } catch (error) {
      ended(error);
      throw error;
    }
  };
}

/** The request, with what its first message names told once. */
function observedRequest(request: Request, onObjects: (objects: string[]) => void): Request {
  const schema: DescMessage = request.method.input;
  if (!request.stream) {
    onObjects(objectsOf(schema, request.message));
    return request;
  }
  const messages = request.message as AsyncIterable<Message>;
  const first = async function* (): AsyncGenerator<Message> {
    let isFirst = true;
    for await (const message of messages) {
      if (isFirst) onObjects(objectsOf(schema, message));
      isFirst = false;
      yield message;
    }
  };
  return { ...request, message: first() } as StreamRequest;
}

async function* observedEnd<T>(messages: AsyncIterable<T>, ended: (error?: unknown) => void): AsyncIterable<T> {
  let told = false;
  const tell = (error?: unknown): void => {
    if (!told) ended(error);
    told = true;
  };
  try {
    yield* messages;
  } catch (error) {
    tell(error);
    throw error;
  } finally {
    tell();
  }
}

/**
 * Never throws: with a full disk a call that was carried out must not be told as failed for want of its entry, and debug
 * sessions are what helps then. The entry is in capsuled's own log instead.
 */
function writeAudit(
  { store, log }: { readonly store: Store; readonly log: Logger },
  request: Request,
  who: { readonly key: KeyRecord | undefined; readonly address: string },
  objects: readonly string[],
  result: string,
): void {
  const entry = {
    time: new Date(),
    keyId: who.key?.id ?? "",
    keyName: who.key?.name ?? "",
    method: nameOf(request.method),
    objects: objects.map((text) => text.slice(0, maxObjectLength)),
    result,
    peerAddress: who.address,
  };
  try {
    store.audit.add(entry);
  } catch (error) {
    log.error({ err: error, entry }, "an entry of the audit log was not written");
  }
}
