import type { LineCounter } from "yaml";
import { CliError } from "../errors.ts";

/** A fault of a manifest, with its place. Lines and columns count from 1. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** Faults of manifests: nothing was sent. */
export class ManifestError extends CliError {
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    const lines = problems.map(({ file, line, column, message }) => `${file}:${line}:${column}: ${message}`);
    super(`${lines.join("\n")}\nNothing was applied.`);
    this.problems = problems;
  }
}

/** For a text that has no LineCounter because it was not parsed. */
export function positionOf(text: string, offset: number): { line: number; column: number } {
  const before = text.slice(0, offset).split("\n");
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

/** Where things are in a file, and what is wrong there. */
export class Place {
  readonly file: string;
  readonly #lines: LineCounter;
  readonly #problems: Problem[];

  constructor(file: string, lines: LineCounter, problems: Problem[]) {
    this.file = file;
    this.#lines = lines;
    this.#problems = problems;
  }

  /** Notes a fault at an offset of the text. */
  fault(offset: number, message: string): void {
    // A file of garbage must not become a screen of garbage.
    if (this.#problems.length < 20) this.#problems.push({ file: this.file, ...this.at(offset), message });
  }

  at(offset: number): { line: number; column: number } {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }
}
