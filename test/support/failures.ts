/**
 * A reporter that says at the very end which tests failed and why, in few lines each: the end of the output is what one
 * sees first, and where all of it is not kept, the only part. $FAILED_FILES names a file that gets the names of the test files that failed.
 */
import { writeFileSync } from "node:fs";
import { relative } from "node:path";
import type { TestEvent } from "node:test/reporters";

const linesOfEach = 12;

export default async function* failures(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const failed: string[] = [];
  const files = new Set<string>();
  for await (const event of source) {
    if (event.type !== "test:fail") continue;
    const { name, file, line, details } = event.data;
    const { error } = details;
    // Of a suite only: that some test in it failed.
    if ((error as { failureType?: string }).failureType === "subtestsFailed") continue;
    const cause = (error as { cause?: unknown }).cause ?? error;
    const text = cause instanceof Error ? cause.message : String(cause);
    files.add(relative("", file ?? ""));
    const shown = text.split("\n").slice(0, linesOfEach).join("\n  ");
    failed.push(`FAILED ${name} (${relative("", file ?? "?")}:${line ?? 0})\n  ${shown}\n`);
  }
  const { FAILED_FILES: list } = process.env;
  if (list !== undefined) writeFileSync(list, [...files].join(" "));
  if (failed.length > 0) yield `\n${failed.length} failed:\n${failed.join("")}`;
}
