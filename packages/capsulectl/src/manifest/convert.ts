/**
 * A YAML node as the protobuf JSON of a message, checked against the message's descriptor: so a new field of the API is
 * known here without a line of code. Every fault is noted with its place.
 */
import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { isAlias, isMap, isScalar, isSeq, type Node, type Scalar, type YAMLMap } from "yaml";
import { parseDuration } from "../duration.ts";
import { parseSize } from "../size.ts";
import type { Place } from "./problems.ts";
import { nearest } from "./suggest.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Offsets of values by their path, such as `container.ports[0].hostPort`. */
export type Offsets = Map<string, number>;

export interface Scope {
  readonly place: Place;
  readonly offsets: Offsets;
}

const integers: Partial<Record<ScalarType, readonly [bigint, bigint]>> = {
  [ScalarType.INT32]: [-(2n ** 31n), 2n ** 31n - 1n],
  [ScalarType.UINT32]: [0n, 2n ** 32n - 1n],
  [ScalarType.INT64]: [-(2n ** 63n), 2n ** 63n - 1n],
  [ScalarType.UINT64]: [0n, 2n ** 64n - 1n],
};

/** A map as a message. `skip` are keys that the caller has taken. */
export function convertMessage(
  node: Node | null,
  schema: DescMessage,
  path: string,
  scope: Scope,
  skip: ReadonlySet<string> = new Set(),
): Json {
  if (!isMap(node)) {
    scope.place.fault(offsetOf(node), `${path}: a block of fields is needed, not ${kindOf(node)}`);
    return {};
  }
  const result: { [key: string]: Json } = {};
  const oneofs = new Map<string, string>();
  for (const { key, value, at } of entriesOf(node, scope)) {
    if (skip.has(key)) continue;
    const field = schema.fields.find(({ jsonName }) => jsonName === key);
    if (field === undefined) {
      const known = schema.fields.map(({ jsonName }) => jsonName);
      const meant = nearest(key, known);
      const hint = meant === undefined ? `there are ${known.join(", ")}` : `did you mean "${meant}"?`;
      scope.place.fault(at, `unknown field "${joined(path, key)}": ${hint}`);
      continue;
    }
    const other = field.oneof === undefined ? undefined : oneofs.get(field.oneof.name);
    if (other !== undefined) scope.place.fault(at, `"${key}" and "${other}" exclude each other: one of them is needed`);
    if (field.oneof !== undefined) oneofs.set(field.oneof.name, key);
    const below = joined(path, key);
    scope.offsets.set(below, at);
    // A key without a value is a field that is not set.
    if (value === null || (isScalar(value) && value.value === null)) continue;
    scope.offsets.set(below, offsetOf(value));
    result[key] = convertField(value, field, below, scope);
  }
  return result;
}

function convertField(node: Node, field: DescField, path: string, scope: Scope): Json {
  switch (field.fieldKind) {
    case "list": {
      if (!isSeq(node)) {
        scope.place.fault(offsetOf(node), `${path}: a list is needed, not ${kindOf(node)}`);
        return [];
      }
      return node.items.map((item, i) => {
        const below = `${path}[${i}]`;
        scope.offsets.set(below, offsetOf(item as Node));
        return convertValue(item as Node, field, below, scope);
      });
    }
    case "map": {
      if (!isMap(node)) {
        scope.place.fault(offsetOf(node), `${path}: keys and values are needed, not ${kindOf(node)}`);
        return {};
      }
      const result: { [key: string]: Json } = {};
      for (const { key, value, at } of entriesOf(node, scope)) {
        const below = `${path}["${key}"]`;
        scope.offsets.set(below, value === null ? at : offsetOf(value));
        result[key] =
          value === null ? "" : convertScalar(value, field.scalar ?? ScalarType.STRING, field, below, scope);
      }
      return result;
    }
    default:
      return convertValue(node, field, path, scope);
  }
}

function convertValue(node: Node, field: DescField, path: string, scope: Scope): Json {
  if (field.message !== undefined) {
    if (field.message.typeName === "google.protobuf.Duration") return convertDuration(node, path, scope);
    return convertMessage(node, field.message, path, scope);
  }
  if (field.enum !== undefined) return convertEnum(node, field.enum, path, scope);
  return convertScalar(node, field.scalar ?? ScalarType.STRING, field, path, scope);
}

function convertScalar(node: Node, type: ScalarType, field: DescField, path: string, scope: Scope): Json {
  const fail = (what: string): Json => {
    scope.place.fault(offsetOf(node), `${path}: ${what} is needed, not ${kindOf(node)}`);
    return null;
  };
  if (!isScalar(node)) return fail(type === ScalarType.STRING ? "a text" : "a single value");
  const { value } = node;
  switch (type) {
    case ScalarType.STRING:
      if (typeof value === "string") return value;
      return fail(isNumberOrBool(node) ? "a text (put it in quotes)" : "a text");
    case ScalarType.BOOL:
      return typeof value === "boolean" ? value : fail("true or false");
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return typeof value === "number" || typeof value === "bigint" ? Number(value) : fail("a number");
    default:
      return convertInteger(node, type, field, path, scope, fail);
  }
}

function convertInteger(
  node: Scalar,
  type: ScalarType,
  field: DescField,
  path: string,
  scope: Scope,
  fail: (what: string) => Json,
): Json {
  const isSize = field.name.endsWith("_bytes");
  const [least, most] = integers[type] ?? [0n, 0n];
  const { value } = node;
  let number: bigint | undefined;
  if (typeof value === "bigint") number = value;
  else if (typeof value === "number" && Number.isInteger(value)) number = BigInt(value);
  else if (typeof value === "string" && isSize) number = parseSize(value);
  if (number === undefined) return fail(isSize ? "a size such as 512MiB or 2GiB" : "a whole number");
  if (number < least || number > most) {
    scope.place.fault(offsetOf(node), `${path}: ${number} is out of range: ${least} to ${most}`);
    return 0;
  }
  return type === ScalarType.INT64 || type === ScalarType.UINT64 ? String(number) : Number(number);
}

function convertEnum(node: Node, type: DescEnum, path: string, scope: Scope): Json {
  const prefix = (type.sharedPrefix ?? "").toUpperCase();
  const names = type.values.filter(({ number }) => number !== 0).map(({ name }) => name);
  const text = isScalar(node) && typeof node.value === "string" ? node.value.toUpperCase() : undefined;
  const found = names.find((name) => name === text || name === `${prefix}${text}`);
  if (found !== undefined) return found;
  const short = names.map((name) => (name.startsWith(prefix) ? name.slice(prefix.length) : name));
  const got = isScalar(node) ? `"${String(node.value)}"` : kindOf(node);
  scope.place.fault(offsetOf(node), `${path}: ${got} is none of ${short.join(", ")}`);
  return names[0] ?? "";
}

function convertDuration(node: Node, path: string, scope: Scope): Json {
  const value = isScalar(node) ? node.value : undefined;
  const ms =
    typeof value === "string" || typeof value === "number" || typeof value === "bigint"
      ? parseDuration(String(value))
      : undefined;
  if (ms !== undefined && ms <= 315_576_000_000_000) return `${ms / 1000}s`;
  scope.place.fault(offsetOf(node), `${path}: a duration such as 30s or 1m30s is needed`);
  return "0s";
}

/** Keys with their values and places; a key that is no text is a fault. */
export function entriesOf(
  node: YAMLMap,
  { place }: Pick<Scope, "place">,
): { key: string; value: Node | null; at: number }[] {
  return node.items.flatMap(({ key, value }) => {
    const at = offsetOf(key as Node);
    if (!isScalar(key) || typeof key.value === "object") {
      place.fault(at, "a key must be a single word");
      return [];
    }
    return [{ key: String(key.value), value: value as Node | null, at }];
  });
}

export function offsetOf(node: Node | null | undefined): number {
  return node?.range?.[0] ?? 0;
}

function kindOf(node: Node | null | undefined): string {
  if (isMap(node)) return "a block of fields";
  if (isSeq(node)) return "a list";
  if (isAlias(node)) return "an alias (write it out)";
  if (!isScalar(node) || node.value === null) return "nothing";
  return typeof node.value === "string" ? `the text "${node.value.slice(0, 40)}"` : String(node.value);
}

function isNumberOrBool({ value }: Scalar): boolean {
  return ["number", "bigint", "boolean"].includes(typeof value);
}

function joined(path: string, key: string): string {
  return path === "" ? key : `${path}.${key}`;
}
