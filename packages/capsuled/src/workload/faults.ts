/** What is wrong with a spec, collected, and what every part of it is checked by. */
import type { FieldViolation } from "../errors.ts";

/** A DNS label, which every name is. */
export const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** Collects faults; `at` gives the place of a field of the kind's own part. */
export class Faults {
  readonly found: FieldViolation[] = [];
  readonly #kind: string;

  constructor(kind: string) {
    this.#kind = kind;
  }

  at(path: string): string {
    return `${this.#kind}.${path}`;
  }

  add(path: string, description: string): void {
    // One wrong list of a million entries must not become an answer of a million lines.
    if (this.found.length < 50) this.found.push({ path, description });
  }
}

/** Proto3 keeps numbers that the enum does not know. */
export function known(
  value: number,
  type: Readonly<Record<string | number, string | number>>,
  path: string,
  faults: Faults,
): void {
  if (type[value] === undefined) faults.add(path, `${value} is none of its values`);
}

export function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
