/** Values that must be in no text of a bundle, found in all their forms in one pass. */
import { mark } from "./patterns.ts";

/** Of what is looked for: a shorter one would be found everywhere. */
const minLength = 6;
/** Hashes have 16 bits. */
const hashMask = 0xffff;
const base = 31;
/** What the oldest character of a window counts. */
const oldest = (base ** (minLength - 1)) & hashMask;

export class KnownValues {
  readonly #byStart = new Map<string, string[]>();
  readonly #starts = new Uint8Array(hashMask + 1);

  constructor(values: Iterable<string>) {
    for (const form of new Set([...values].flatMap(formsOf))) {
      const start = form.slice(0, minLength);
      const same = this.#byStart.get(start);
      if (same === undefined) this.#byStart.set(start, [form]);
      else same.push(form);
      let hash = 0;
      for (let i = 0; i < minLength; i++) hash = (hash * base + start.charCodeAt(i)) & hashMask;
      this.#starts[hash] = 1;
    }
    // Of two that begin alike the longer one is taken whole.
    for (const same of this.#byStart.values()) same.sort((a, b) => b.length - a.length);
  }

  /** Rabin and Karp: the work grows with the text and not with the number of values. */
  scrub(text: string): string {
    if (this.#byStart.size === 0) return text;
    const kept: string[] = [];
    let from = 0;
    let hash = 0;
    for (let i = 0; i < text.length; i++) {
      if (i >= minLength) hash = (hash - Math.imul(text.charCodeAt(i - minLength), oldest)) & hashMask;
      hash = (hash * base + text.charCodeAt(i)) & hashMask;
      const start = i - minLength + 1;
      if (start < from || this.#starts[hash] !== 1) continue;
      const found = this.#byStart
        .get(text.slice(start, start + minLength))
        ?.find((value) => text.startsWith(value, start));
      if (found === undefined) continue;
      kept.push(text.slice(from, start), mark);
      from = start + found.length;
    }
    return from === 0 ? text : kept.join("") + text.slice(from);
  }
}

/** As it is, as in JSON, in a URL, in base64; and line by line, as logs have it. */
function formsOf(value: string): string[] {
  const lines = value.includes("\n") ? value.split("\n").map((line) => line.trim()) : [];
  return [value, value.trim(), ...lines]
    .filter((text) => text.length >= minLength)
    .flatMap((text) => [
      text,
      JSON.stringify(text).slice(1, -1),
      encodeURIComponent(text.toWellFormed()),
      Buffer.from(text).toString("base64").replace(/=+$/, ""),
    ]);
}
