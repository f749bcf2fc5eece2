import { type DescMethod, getOption } from "@bufbuild/protobuf";
import { Access, access, mutating } from "@capsule/api";

/** Who may call a method: its option in the .proto. The reflection service is not ours and has none: anyone enrolled. */
export function accessOf(method: DescMethod): Access {
  if (method.parent.typeName.startsWith("grpc.reflection.")) return Access.VIEWER;
  return getOption(method, access);
}

export function isMutating(method: DescMethod): boolean {
  return getOption(method, mutating);
}

/** Such as "capsule.v1.WorkloadService/Apply". */
export function nameOf(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}
