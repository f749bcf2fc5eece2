/** What is loaded only when YAML is read or written: a module of our own, so that the bundler keeps its names. */
import { stringify as plain } from "yaml";

export { parse } from "yaml";

/** Strings are quoted where one has a character that a terminal obeys, so that it can be written as an escape. */
export function stringify(value: unknown): string {
  const steers = /[\p{Cc}\p{Cf}]/u.test(JSON.stringify(value));
  return plain(value, steers ? { defaultStringType: "QUOTE_DOUBLE" } : {});
}
