import assert from "node:assert/strict";
import { test } from "node:test";
import { LinePrinter } from "./log-lines.ts";

const line = (text: string, stream = "stdout", tag = "F"): string =>
  `2026-01-01T00:00:00.123456789Z ${stream} ${tag} ${text}\n`;

function printed(blocks: readonly string[], timestamps = false): { stdout: string; stderr: string } {
  const printer = new LinePrinter(timestamps);
  const all = { stdout: "", stderr: "" };
  for (const block of blocks) {
    const { stdout, stderr } = printer.textOf(Buffer.from(block));
    all.stdout += Buffer.from(stdout).toString();
    all.stderr += Buffer.from(stderr).toString();
  }
  return all;
}

test("each stream to its own, whatever the text", () => {
  const block = line("a") + line("") + line("oops", "stderr") + line(" b stderr F \r ");
  assert.deepEqual(printed([block]), { stdout: "a\n\n b stderr F \r \n", stderr: "oops\n" });
  assert.deepEqual(printed([""]), { stdout: "", stderr: "" });
});

test("a long line in parts is one, across blocks and beside the other stream", () => {
  const blocks = [line("lo", "stdout", "P") + line("x", "stderr", "P"), line("ng") + line("y", "stderr"), line("z")];
  assert.deepEqual(printed(blocks), { stdout: "long\nz\n", stderr: "xy\n" });
  const stamp = "2026-01-01T00:00:00.123Z ";
  assert.deepEqual(printed(blocks, true), { stdout: `${stamp}long\n${stamp}z\n`, stderr: `${stamp}xy\n` });
});

test("lines that are cut anywhere", () => {
  const block = line("a", "stderr") + line("lo", "stdout", "P") + line("ng") + line("b");
  for (let size = 1; size < block.length; size++) {
    const parts = Array.from({ length: Math.ceil(block.length / size) }, (_, i) =>
      block.slice(i * size, (i + 1) * size),
    );
    assert.deepEqual(printed(parts), { stdout: "long\nb\n", stderr: "a\n" }, `parts of ${size}`);
  }
});

test("what a power cut has torn is passed over", () => {
  const torn = `2026-01-01T00:00:0\n\0\0\0\n${"\0".repeat(60)}\n`;
  assert.deepEqual(printed([line("a") + torn + line("b")]), { stdout: "a\nb\n", stderr: "" });
});
