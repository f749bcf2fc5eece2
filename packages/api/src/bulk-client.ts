/** Calls of methods that stream bytes: as the library's, without its copies. */
import type { DescMessage, DescMethodStreaming, MessageShape } from "@bufbuild/protobuf";
import { createContextValues, type Interceptor, type Transport } from "@connectrpc/connect";
import { createMethodUrl, runStreamingCall } from "@connectrpc/connect/protocol";
import { requestHeader, validateResponse, validateTrailer } from "@connectrpc/connect/protocol-grpc";
import { createNodeHttpClient, type Http2SessionManager } from "@connectrpc/connect-node";
import { decodeBulk, encodeBulk } from "./bulk.ts";

/** Longest message that is taken; those of capsuled and containerd are smaller. */
const readMaxBytes = 64 * 1024 * 1024;

/** The streams of a gRPC transport over one session. */
export function bulkStreams(options: {
  readonly baseUrl: string;
  readonly sessionManager: Http2SessionManager;
  readonly interceptors: Interceptor[];
}): Transport["stream"] {
  const { baseUrl, sessionManager, interceptors } = options;
  const http = createNodeHttpClient({ httpVersion: "2", sessionProvider: () => sessionManager });
  return async <I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: Parameters<Transport["stream"]>[3],
    input: Parameters<Transport["stream"]>[4],
    contextValues?: Parameters<Transport["stream"]>[5],
  ) =>
    await runStreamingCall<I, O>({
      interceptors,
      ...(signal === undefined ? {} : { signal }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      req: {
        stream: true,
        service: method.parent,
        method,
        requestMethod: "POST",
        url: createMethodUrl(baseUrl, method),
        header: requestHeader(true, timeoutMs, header),
        contextValues: contextValues ?? createContextValues(),
        message: input as AsyncIterable<never>,
      },
      next: async (request) => {
        const { url, header: requestHeaders, message, signal: callSignal } = request;
        const body = encoded(method.input, message);
        const response = await http({ url, method: "POST", header: requestHeaders, signal: callSignal, body });
        const { foundStatus, headerError } = validateResponse(response.status, response.header);
        if (headerError !== undefined) throw headerError;
        const received = async function* (): AsyncGenerator<MessageShape<O>> {
          yield* decodeBulk(method.output, response.body, readMaxBytes);
          if (!foundStatus) validateTrailer(response.trailer, response.header);
        };
        return { ...request, header: response.header, trailer: response.trailer, message: received() };
      },
    });
}

/**
 * Each message in one piece, in a buffer that is used again: the client writes it before it asks for the next one
 * (sinkRequest of connect-node).
 */
async function* encoded<D extends DescMessage>(
  schema: D,
  messages: AsyncIterable<MessageShape<D>>,
): AsyncGenerator<Uint8Array> {
  let scratch = Buffer.alloc(0);
  for await (const message of messages) {
    const [head, data] = encodeBulk(schema, message);
    const length = head.length + data.length;
    if (scratch.length < length) scratch = Buffer.allocUnsafe(length);
    scratch.set(head);
    scratch.set(data, head.length);
    yield scratch.subarray(0, length);
  }
}
