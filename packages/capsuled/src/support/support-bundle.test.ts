import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { commandPart } from "./command.ts";
import { newestLines, wholeLines } from "./lines.ts";
import { collectPart, type Part, type PartList } from "./part.ts";
import { filesPart } from "./parts/files.ts";
import { mark } from "./patterns.ts";
import { supportBundle } from "./support-bundle.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-support-"));
after(() => rmSync(dir, { recursive: true }));
const never = new AbortController().signal;
const text = (name: string, content: string): Part => ({ name, collect: async () => content });

/** Files of the archive, as tar(1) unpacks them, and the end that was told. */
async function unpacked(parts: readonly (Part | PartList)[], bounds = { limitBytes: 1_000_000, timeoutMs: 60_000 }) {
  const into = mkdtempSync(join(dir, "bundle-"));
  const chunks: Uint8Array[] = [];
  const files: Record<string, string> = {};
  const scrub = (one: string): string => one.replaceAll("hunter2", mark);
  for await (const output of supportBundle({ parts, scrub, ...bounds }, never)) {
    if (output.kind === "data") chunks.push(output.data);
    if (output.kind !== "end") continue;
    const archive = join(dir, "bundle.tar.gz");
    writeFileSync(archive, Buffer.concat(chunks));
    execFileSync("tar", ["-xzf", archive, "-C", into]);
    for (const name of readdirSync(into, { recursive: true, withFileTypes: true }))
      if (name.isFile()) {
        const path = join(name.parentPath, name.name);
        files[path.slice(into.length + 1)] = readFileSync(path, "utf8");
      }
    assert.equal(output.sizeBytes, Buffer.concat(chunks).length);
    assert.equal(output.files, Object.keys(files).length);
    return { files, faults: output.faults };
  }
  throw new Error("it did not end");
}

describe("supportBundle", () => {
  it("is a tar.gz that tar(1) reads, of what the parts collect", async () => {
    const big = "line of a log\n".repeat(10_000);
    const { files, faults } = await unpacked([text("a.txt", "one"), text("dir/b.txt", big), text("empty", "")]);
    assert.deepEqual(files, { "a.txt": "one", "dir/b.txt": big, empty: "", "errors.txt": "" });
    assert.deepEqual(faults, []);
  });

  it("goes on when a part fails, and tells of it", async () => {
    const { files, faults } = await unpacked([
      { name: "broken", collect: () => Promise.reject(new Error("outer", { cause: new Error("no hunter2\nhere") })) },
      { name: "list", list: () => Promise.reject(new Error("no list")) },
      {
        name: "thrown",
        collect: () => {
          throw new Error("at once");
        },
      },
      { name: "half", collect: async () => ({ text: "half\n", faults: ["the rest is gone"] }) },
      { name: "list", list: async () => [text("x/1", "1"), text("x/2", "2")] },
    ]);
    assert.deepEqual(faults, [
      `broken: outer: no ${mark} here`,
      "list: no list",
      "thrown: at once",
      "half: the rest is gone",
    ]);
    assert.equal(files["errors.txt"], `${faults.join("\n")}\n`);
    assert.deepEqual([files["half"], files["x/1"], files["x/2"]], ["half\n", "1", "2"]);
  });

  it("scrubs everything", async () => {
    const { files } = await unpacked([text("a", "hunter2"), { name: "b", collect: async () => "x hunter2" }]);
    assert.deepEqual([files["a"], files["b"]], [mark, `x ${mark}`]);
  });

  it("leaves out what is beyond its size and its time", async () => {
    const full = await unpacked([text("a", "x".repeat(2_000)), text("b", "")], {
      limitBytes: 1_000,
      timeoutMs: 60_000,
    });
    assert.deepEqual(Object.keys(full.files).sort(), ["a", "errors.txt"]);
    assert.match(full.faults[0] ?? "", /^b: not collected: the bundle is full/);
    const late = await unpacked([text("a", "")], { limitBytes: 1_000, timeoutMs: -1 });
    assert.match(late.faults[0] ?? "", /^a: not collected: the bundle's time is up/);
  });

  it("ends when the caller goes", async () => {
    const caller = new AbortController();
    const bounds = { limitBytes: 1_000, timeoutMs: 60_000 };
    const stuck: Part = { name: "stuck", collect: () => new Promise(() => undefined) };
    const outputs = supportBundle({ parts: [stuck], scrub: String, ...bounds }, caller.signal);
    assert.equal((await outputs.next()).value?.kind, "progress");
    const next = outputs.next();
    caller.abort(new Error("gone"));
    await assert.rejects(next, /gone/);
  });
});

describe("collectPart", () => {
  it("gives up what takes too long, and what is stuck", async () => {
    const stuck: Part = { name: "stuck", timeoutMs: 20, collect: () => new Promise(() => undefined) };
    assert.deepEqual(await collectPart(stuck, never), {
      ...{ name: "stuck", text: undefined, faults: ["given up after 20 ms"] },
    });
    const slow = { ...commandPart("slow", ["sleep", "60"]), timeoutMs: 50 };
    const began = performance.now();
    assert.deepEqual((await collectPart(slow, never)).faults, ["given up after 50 ms"]);
    assert.ok(performance.now() - began < 10_000);
  });

  it("keeps whole lines of what is too long", async () => {
    const found = await collectPart({ ...text("long", "one\ntwo\nthree\n"), limitBytes: 9 }, never);
    assert.equal(found.text, "one\ntwo\n");
    assert.match(found.faults[0] ?? "", /^cut/);
  });

  it("ends a command that prints without end", async () => {
    const found = await collectPart({ ...commandPart("endless", ["yes"]), limitBytes: 10_000 }, never);
    assert.ok((found.text ?? "").length <= 10_000 && (found.text ?? "").length > 9_000);
    assert.match(found.faults.join(), /cut/);
  });

  it("keeps what a command that failed has printed, and tells of one that is not there", async () => {
    const failed = await collectPart(commandPart("x", ["sh", "-c", "echo out; echo err >&2; exit 3"]), never);
    assert.match(failed.text ?? "", /^\$ sh .*\n(out\nerr|err\nout)\n/);
    assert.match(failed.faults[0] ?? "", /ended with 3$/);
    const missing = await collectPart(commandPart("x", ["no-such-program"], ["echo", "on"]), never);
    assert.match(missing.faults[0] ?? "", /^no-such-program: .*ENOENT/);
    assert.match(missing.text ?? "", /\$ echo on\non\n/);
  });

  it("bounds files without a size", async () => {
    const found = await collectPart({ ...filesPart("zero", ["/dev/zero", "/no/such/file"]), limitBytes: 1_000 }, never);
    assert.match(found.faults[0] ?? "", /^cut/);
  });
});

describe("lines", () => {
  it("wholeLines", () => {
    assert.equal(wholeLines("äö\nx", 100), "äö\nx");
    assert.equal(wholeLines("äö\nxyz", 5), "äö\n");
    assert.equal(wholeLines("äö\nxyz", 4), "");
  });

  it("newestLines, over rotated files", async () => {
    writeFileSync(join(dir, "x.log.2"), "1\n2\n");
    writeFileSync(join(dir, "x.log.1"), "three\nfour\n");
    writeFileSync(join(dir, "x.log"), "five\nsix\n");
    const place = { dir, name: "x.log" };
    assert.deepEqual(await newestLines(place, 100), { text: "1\n2\nthree\nfour\nfive\nsix\n", faults: [] });
    const cut = await newestLines(place, 15);
    assert.equal(cut.text, "four\nfive\nsix\n");
    assert.match(cut.faults[0] ?? "", /^cut/);
    assert.equal((await newestLines(place, 3)).text, "");
    assert.deepEqual(await newestLines({ dir, name: "none.log" }, 10), { text: "", faults: [] });
  });
});
