/** containerd's gRPC API over its Unix socket; types generated from Debian's copies of its protos. */
import { connect as netConnect } from "node:net";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { bulkStreams } from "@capsule/api/bulk-client.ts";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { CapsuleError } from "../../errors.ts";
import { Containers } from "../../gen/containerd/github.com/containerd/containerd/api/services/containers/v1/containers_pb.js";
import { Content } from "../../gen/containerd/github.com/containerd/containerd/api/services/content/v1/content_pb.js";
import { Events } from "../../gen/containerd/github.com/containerd/containerd/api/services/events/v1/events_pb.js";
import { Images } from "../../gen/containerd/github.com/containerd/containerd/api/services/images/v1/images_pb.js";
import { Leases } from "../../gen/containerd/github.com/containerd/containerd/api/services/leases/v1/leases_pb.js";
import { Snapshots } from "../../gen/containerd/github.com/containerd/containerd/api/services/snapshots/v1/snapshots_pb.js";
import { Streaming } from "../../gen/containerd/github.com/containerd/containerd/api/services/streaming/v1/streaming_pb.js";
import { Tasks } from "../../gen/containerd/github.com/containerd/containerd/api/services/tasks/v1/tasks_pb.js";
import { Transfer } from "../../gen/containerd/github.com/containerd/containerd/api/services/transfer/v1/transfer_pb.js";

/** All of the capsule's objects are in this namespace of containerd. */
export const NAMESPACE = "capsule";
export const SNAPSHOTTER = "overlayfs";

export interface Containerd {
  readonly containers: Client<typeof Containers>;
  readonly content: Client<typeof Content>;
  readonly events: Client<typeof Events>;
  readonly images: Client<typeof Images>;
  readonly leases: Client<typeof Leases>;
  readonly snapshots: Client<typeof Snapshots>;
  readonly streaming: Client<typeof Streaming>;
  readonly tasks: Client<typeof Tasks>;
  readonly transfer: Client<typeof Transfer>;
  close(): void;
}

/** Connects lazily, and again after a restart of containerd. */
export function connectContainerd(socket: string): Containerd {
  const baseUrl = "http://containerd.local";
  const sessionManager = new Http2SessionManager(baseUrl, {}, {
    createConnection: () => netConnect(socket),
  } as ConstructorParameters<typeof Http2SessionManager>[2]);
  const namespaced: Interceptor = (next) => (request) => {
    request.header.set("containerd-namespace", NAMESPACE);
    return next(request);
  };
  const interceptors = [namespaced];
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager,
    interceptors,
    // A socket of this machine: compressing costs more than it saves.
    acceptCompression: [],
  });
  return {
    containers: createClient(Containers, transport),
    // Blobs: without the library's copies.
    content: createClient(Content, { ...transport, stream: bulkStreams({ baseUrl, sessionManager, interceptors }) }),
    events: createClient(Events, transport),
    images: createClient(Images, transport),
    leases: createClient(Leases, transport),
    snapshots: createClient(Snapshots, transport),
    streaming: createClient(Streaming, transport),
    tasks: createClient(Tasks, transport),
    transfer: createClient(Transfer, transport),
    close: () => sessionManager.abort(),
  };
}

/**
 * A message as containerd wants it in an Any: its type URL is the bare name, without a host
 * (github.com/containerd/typeurl), and plugins are looked up by exactly that.
 */
export function anyOf<T extends DescMessage>(schema: T, init: MessageInitShape<T>): Any {
  return create(AnySchema, { typeUrl: schema.typeName, value: toBinary(schema, create(schema, init)) });
}

/** JSON in an Any, for types of the OCI specification. */
export function jsonAny(typeUrl: string, value: unknown): Any {
  return create(AnySchema, { typeUrl, value: new TextEncoder().encode(JSON.stringify(value)) });
}

/** The message in an Any when it is of this type. */
export function unpack<T extends DescMessage>(any: Any | undefined, schema: T): MessageShape<T> | undefined {
  if (any === undefined || any.typeUrl.slice(any.typeUrl.lastIndexOf("/") + 1) !== schema.typeName) return undefined;
  return fromBinary(schema, any.value);
}

export function isCode(error: unknown, code: Code): boolean {
  return error instanceof ConnectError && error.code === code;
}

/** The result of a call, or undefined when containerd has no such object. */
export async function orUndefined<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (isCode(error, Code.NotFound)) return undefined;
    throw error;
  }
}

/**
 * What the OCI runtime said, without the chain of programs that passed it on ("failed to create shim task: OCI runtime
 * create failed: …: unknown", containerd's runtime v2). Undefined when it was not the runtime.
 */
export function runtimeWords(error: unknown): string | undefined {
  const text = error instanceof ConnectError ? error.rawMessage : "";
  const said = /OCI runtime (?:create|start|exec) failed: (.*)$/s.exec(text)?.[1];
  return said?.replace(/^(?:runc|crun) (?:create|start|exec) failed: /, "").replace(/: unknown$/, "");
}

/** An error of containerd as one of ours, with its own words: they name the cause, such as a registry's answer. */
export function translated(error: unknown, doing: string): CapsuleError {
  if (error instanceof CapsuleError) return error;
  const text =
    error instanceof ConnectError ? error.rawMessage : error instanceof Error ? error.message : String(error);
  const options = { cause: error };
  const message = `${doing}: ${text}`;
  if (/no space left on device/i.test(text)) {
    return new CapsuleError("exhausted", `${message}. Remove images or workloads.`, {
      ...options,
      reason: "DISK_FULL",
    });
  }
  if (!(error instanceof ConnectError)) return new CapsuleError("internal", message, options);
  switch (error.code) {
    case Code.NotFound:
      return new CapsuleError("notFound", message, options);
    case Code.AlreadyExists:
      return new CapsuleError("conflict", message, options);
    case Code.InvalidArgument:
      return new CapsuleError("invalid", message, options);
    case Code.Unavailable:
      return new CapsuleError("unavailable", `${message} (containerd does not answer)`, options);
    case Code.DeadlineExceeded:
    case Code.Canceled:
      return new CapsuleError("timeout", message, options);
    default:
      return new CapsuleError("internal", message, options);
  }
}
