/** Methods that stream bytes, by gRPC: the same calls and interceptors as all others, without the library's copies. */
import type { Http2ServerRequest, Http2ServerResponse, ServerHttp2Stream } from "node:http2";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { decodeBulk, encodeBulk, isBulk } from "@capsule/api/bulk.ts";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextValues,
  createHandlerContext,
  createMethodImplSpec,
  createServiceImplSpec,
  type HandlerContext,
  type Interceptor,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { createMethodUrl, transformInvokeImplementation } from "@connectrpc/connect/protocol";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { universalRequestFromNodeRequest } from "@connectrpc/connect-node";

export interface BulkOptions {
  readonly routes: (router: ConnectRouter) => void;
  readonly interceptors: Interceptor[];
  readonly contextValues: (request: Http2ServerRequest) => ContextValues;
  readonly readMaxBytes: number;
}

type Listener = (request: Http2ServerRequest, response: Http2ServerResponse) => void;

const contentType = "application/grpc+proto";
const binaryGrpc = /^application\/grpc(\+proto)?$/;
const maxTimeoutMs = Number.MAX_SAFE_INTEGER;

/** Finds who answers a request: undefined for what is no bulk stream by gRPC, which the library answers. */
export function bulkHandlers(options: BulkOptions): (request: Http2ServerRequest) => Listener | undefined {
  const specs = new Map<string, MethodImplSpec>();
  const add = (spec: MethodImplSpec): void => {
    if (isBulk(spec.method) && spec.kind !== "unary") specs.set(createMethodUrl("/", spec.method), spec);
  };
  const router: ConnectRouter = {
    handlers: [],
    service: (service, implementation) => {
      for (const spec of Object.values(createServiceImplSpec(service, implementation).methods)) add(spec);
      return router;
    },
    rpc: (method, implementation) => {
      add(createMethodImplSpec(method, implementation) as MethodImplSpec);
      return router;
    },
  };
  options.routes(router);
  return ({ method, url, headers, stream }) => {
    const spec = specs.get(url);
    const isPlain = (headers["grpc-encoding"] ?? "identity") === "identity";
    if (spec === undefined || method !== "POST" || stream === undefined || !isPlain) return undefined;
    if (!binaryGrpc.test(headers["content-type"] ?? "")) return undefined;
    return (request, response) => void answer(spec, options, request, response);
  };
}

/** Never throws: what goes wrong is told in the trailers, or nobody is there to be told. */
async function answer(
  spec: MethodImplSpec,
  { interceptors, contextValues, readMaxBytes }: BulkOptions,
  request: Http2ServerRequest,
  response: Http2ServerResponse,
): Promise<void> {
  const { header, signal, url } = universalRequestFromNodeRequest(request, response, undefined, undefined);
  const timeout = parseTimeout(header.get("grpc-timeout"), maxTimeoutMs);
  const context = createHandlerContext({
    ...spec,
    service: spec.method.parent,
    requestMethod: "POST",
    protocolName: "grpc",
    ...(timeout.timeoutMs === undefined ? {} : { timeoutMs: timeout.timeoutMs }),
    requestSignal: signal,
    requestHeader: header,
    url,
    responseHeader: { "content-type": contentType },
    responseTrailer: { "grpc-status": "0" },
    contextValues: contextValues(request),
  });
  try {
    if (timeout.error !== undefined) throw timeout.error;
    const input = decodeBulk(spec.method.input, request as AsyncIterable<Buffer>, readMaxBytes);
    const output = transformInvokeImplementation(spec, context, interceptors)(input);
    await send(response, spec.method.output, output, context);
    context.abort();
  } catch (error) {
    context.abort(error);
    setTrailerStatus(context.responseTrailer, asConnectError(error));
  }
  if (response.stream.destroyed) return;
  sendHeaders(response, context);
  response.addTrailers(Object.fromEntries(context.responseTrailer));
  response.end();
}

/** Sends each message when the one before has been taken: what it holds may be used again then. */
async function send<D extends DescMessage>(
  response: Http2ServerResponse,
  schema: D,
  messages: AsyncIterable<MessageShape<D>>,
  context: HandlerContext,
): Promise<void> {
  for await (const message of messages) {
    sendHeaders(response, context);
    const [head, data] = encodeBulk(schema, message);
    await write(response.stream, head, data);
  }
}

/** Before the first message or at the end: until then the handler may change them. */
function sendHeaders(response: Http2ServerResponse, { responseHeader }: HandlerContext): void {
  if (!response.headersSent) response.writeHead(200, Object.fromEntries(responseHeader));
}

async function write(stream: ServerHttp2Stream, head: Buffer, data: Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    stream.cork();
    stream.write(head);
    stream.write(data, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(new ConnectError("the caller went away", Code.Aborted, undefined, undefined, error));
    });
    stream.uncork();
  });
}

function asConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}
