import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { firecrackerProgram, programFault } from "./firecracker.ts";
import { documentOf, firecrackerComponents } from "./sbom.ts";

/** An ELF header and program headers of these types. */
function elf(types: readonly number[], machine = 62): Buffer {
  const file = Buffer.alloc(64 + types.length * 56);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]).copy(file);
  file.writeUInt16LE(machine, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(types.length, 56);
  for (const [i, type] of types.entries()) file.writeUInt32LE(type, 64 + i * 56);
  return file;
}

test("a static program for x86-64 is taken", () => {
  assert.equal(programFault(elf([1, 1, 2])), undefined);
});

test("what is none is told", async () => {
  assert.match(programFault(Buffer.alloc(0)) ?? "", /no program/);
  assert.match(programFault(Buffer.from("\x1f\x8b an archive".repeat(9))) ?? "", /no program/);
  assert.match(programFault(elf([1], 183)) ?? "", /not for x86-64/);
  assert.match(programFault(elf([1, 3])) ?? "", /needs libraries/);
  assert.match(programFault(elf([1, 1]).subarray(0, 100)) ?? "", /not whole/);
  assert.match(programFault(await readFile("/bin/sh")) ?? "", /needs libraries|not for/);
});

test("without it the image and its bill of materials have nothing of it", async () => {
  for (const none of [undefined, ""]) assert.equal(await firecrackerProgram(none), undefined);
  assert.deepEqual(await firecrackerComponents(""), []);
});

test("its digest is in the bill of materials", async () => {
  const dir = await mkdtemp(join(tmpdir(), "capsule-firecracker-"));
  try {
    const file = join(dir, "firecracker");
    await assert.rejects(firecrackerProgram(file), /FIRECRACKER=.*: it cannot be read/);
    await writeFile(file, elf([1]));
    const sha256 = createHash("sha256")
      .update(elf([1]))
      .digest("hex");
    assert.deepEqual(await firecrackerProgram(file), { file, sha256 });
    const text = JSON.stringify(documentOf("1.0.0", await firecrackerComponents(file)));
    assert.match(text, new RegExp(`"checksums":\\[\\{"algorithm":"SHA256","checksumValue":"${sha256}"\\}\\]`));
    await writeFile(file, "#!/bin/sh\n");
    await assert.rejects(firecrackerProgram(file), /FIRECRACKER=.*: it is no program/);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
