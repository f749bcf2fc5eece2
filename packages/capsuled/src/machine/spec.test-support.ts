/** Builds documents for tests: what is not said is at its default. */
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { type MachineSpec, MachineSpecSchema } from "@capsule/api";

/** As in a manifest. */
export function aMachine(fields: JsonValue = {}): MachineSpec {
  return fromJson(MachineSpecSchema, fields);
}
