/** What a call names, for the audit log: found in its first message by the fields that name things. Pure. */
import { type DescMessage, type Message, ScalarType } from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";

const naming = new Set(["name", "names", "reference", "host", "key", "hostname", "path"]);
const maxObjects = 16;
const maxLength = 200;

/** At most 16 names: those of fields called name, reference and the like, one message deep for each resource. */
export function objectsOf(schema: DescMessage, message: Message): string[] {
  const found: string[] = [];
  collect(schema, message, found, 0);
  return [...new Set(found)].slice(0, maxObjects).map((name) => name.slice(0, maxLength));
}

function collect(schema: DescMessage, message: Message, found: string[], depth: number): void {
  const reflected = reflect(schema, message);
  for (const field of reflected.fields) {
    if (found.length >= maxObjects || !reflected.isSet(field)) continue;
    if (field.fieldKind === "scalar" && field.scalar === ScalarType.STRING && naming.has(field.name)) {
      found.push(String(reflected.get(field)));
    } else if (field.fieldKind === "list" && field.listKind === "scalar" && naming.has(field.name)) {
      for (const value of reflected.get(field)) found.push(String(value));
    } else if (field.fieldKind === "list" && field.listKind === "message" && field.name === "resources") {
      for (const value of reflected.get(field))
        if (typeof value === "object" && value !== null && "message" in value)
          collect(field.message, value.message as Message, found, depth + 1);
    } else if (field.fieldKind === "message" && depth < 2) {
      const value = reflected.get(field);
      // Only the name of what is inside: environment variables have names too.
      if (depth < 2 && ["start", "spec", "workload", "volume", "registry"].includes(field.name))
        collect(field.message, value.message, found, depth + 1);
    }
  }
}
