/** Messages of the API with hostile values in random fields. */
import { create, type DescField, type DescMessage, type Message, ScalarType } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import type { Random } from "./random.ts";

const texts = [
  "",
  "a",
  "-",
  "..",
  "../../../../etc/passwd",
  "/",
  "/proc/self/root",
  "//x/../..",
  "a\u0000b",
  "\u001b[2J\u202e",
  "x".repeat(300),
  "y".repeat(100_000),
  "$(reboot); `reboot`; {{x}} %s%n",
  "' OR 1=1; DROP TABLE workloads; --",
  "busybox:1",
  "sha256:0000",
  "127.0.0.1:1/x:1",
  "999.1.1.1",
  "::1",
  "é\u{1f600}\ufffd",
];
const numbers = [0, 1, -1, 2, 255, 65_535, 65_536, 2 ** 31 - 1];
const longs = [0n, 1n, -1n, 2n ** 31n, 2n ** 53n, 2n ** 62n, 2n ** 63n - 1n];

/** A message of this type; `keep` names fields (Message.field) that are not touched. */
export function randomMessage(schema: DescMessage, random: Random, keep: ReadonlySet<string>, depth = 0): Message {
  const message = create(schema);
  const fields = reflect(schema, message);
  for (const field of schema.fields) {
    if (keep.has(`${schema.name}.${field.name}`) || random.below(3) === 0) continue;
    if (depth > 6) continue;
    fill(fields, field, random, keep, depth);
  }
  return message;
}

function fill(
  fields: ReflectMessage,
  field: DescField,
  random: Random,
  keep: ReadonlySet<string>,
  depth: number,
): void {
  const message = (schema: DescMessage): ReflectMessage =>
    reflect(schema, randomMessage(schema, random, keep, depth + 1));
  const count = random.pick([0, 1, 1, 2, 40]);
  if (field.fieldKind === "list") {
    const list = fields.get(field);
    for (let i = 0; i < count; i++) {
      if (field.listKind === "message") list.add(message(field.message));
      else if (field.listKind === "enum") list.add(random.pick([0, 1, 2, 77]));
      else list.add(scalar(field.scalar, random));
    }
  } else if (field.fieldKind === "map") {
    const map = fields.get(field);
    for (let i = 0; i < count; i++) {
      const key = scalar(field.mapKey, random);
      if (field.mapKind === "message") map.set(key, message(field.message));
      else if (field.mapKind === "enum") map.set(key, 0);
      else map.set(key, scalar(field.scalar, random));
    }
  } else if (field.fieldKind === "message") fields.set(field, message(field.message));
  else if (field.fieldKind === "enum") fields.set(field, random.pick([0, 1, 2, 77]));
  else fields.set(field, scalar(field.scalar, random));
}

function scalar(type: ScalarType, random: Random): unknown {
  switch (type) {
    case ScalarType.STRING:
      return random.pick(texts);
    case ScalarType.BYTES:
      return random.bytes(random.pick([0, 1, 32, 5_000]));
    case ScalarType.BOOL:
      return random.below(2) === 1;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return random.pick([0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e38]);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return random.pick(longs);
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return random.pick(longs.filter((long) => long >= 0n));
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return random.pick(numbers.filter((number) => number >= 0));
    default:
      return random.pick(numbers);
  }
}
