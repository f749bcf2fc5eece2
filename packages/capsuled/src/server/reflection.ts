/** Server reflection, both versions of the protocol, so that grpcurl and its like work without the .proto files. */
import { createRegistry, type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { ServerReflectionRequest } from "@capsule/api/gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection } from "@capsule/api/gen/grpc/reflection/v1/reflection_pb.js";
import { ServerReflection as ServerReflectionAlpha } from "@capsule/api/gen/grpc/reflection/v1alpha/reflection_pb.js";
import { Code, type ConnectRouter } from "@connectrpc/connect";

/** Adds reflection of these services, and of itself. */
export function reflection(router: ConnectRouter, services: readonly DescService[]): void {
  const all = [...services, ServerReflection, ServerReflectionAlpha];
  const files = filesOf(all.map(({ file }) => file));
  const registry = createRegistry(...files.values());
  const answer = ({ messageRequest }: Pick<ServerReflectionRequest, "messageRequest">) => {
    switch (messageRequest.case) {
      case "listServices":
        return {
          case: "listServicesResponse" as const,
          value: { service: all.map(({ typeName }) => ({ name: typeName })) },
        };
      case "fileByFilename":
        return files.has(messageRequest.value)
          ? fileResponse(files.get(messageRequest.value))
          : unknown(messageRequest.value);
      case "fileContainingSymbol": {
        const file = fileOfSymbol(registry, messageRequest.value);
        return file === undefined ? unknown(messageRequest.value) : fileResponse(file);
      }
      default:
        return errorResponse(Code.Unimplemented, "extensions are not looked up");
    }
  };
  const implementation = {
    async *serverReflectionInfo(requests: AsyncIterable<ServerReflectionRequest>) {
      for await (const request of requests) yield { originalRequest: request, messageResponse: answer(request) };
    },
  };
  router.service(ServerReflection, implementation);
  router.service(ServerReflectionAlpha, {
    async *serverReflectionInfo(requests) {
      for await (const request of requests)
        yield { originalRequest: request, messageResponse: answer(request as never) };
    },
  });
}

/** The files and all that they import, by their names. */
function filesOf(roots: readonly DescFile[]): Map<string, DescFile> {
  const files = new Map<string, DescFile>();
  const add = (file: DescFile): void => {
    if (files.has(`${file.name}.proto`)) return;
    files.set(`${file.name}.proto`, file);
    file.dependencies.forEach(add);
  };
  roots.forEach(add);
  return files;
}

/** A symbol is a type, a service or, with one more part, a field or method of it. */
function fileOfSymbol(registry: ReturnType<typeof createRegistry>, symbol: string): DescFile | undefined {
  const found = registry.get(symbol) ?? registry.get(symbol.slice(0, Math.max(0, symbol.lastIndexOf("."))));
  return found?.file;
}

function fileResponse(file: DescFile | undefined) {
  const all = file === undefined ? [] : [...filesOf([file]).values()];
  const fileDescriptorProto = all.map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto));
  return { case: "fileDescriptorResponse" as const, value: { fileDescriptorProto } };
}

function unknown(name: string) {
  return errorResponse(Code.NotFound, `${name.slice(0, 200)} is not known`);
}

function errorResponse(errorCode: Code, errorMessage: string) {
  return { case: "errorResponse" as const, value: { errorCode, errorMessage } };
}
