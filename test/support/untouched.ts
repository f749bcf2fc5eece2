/** Whether a disk image of a machine is as it was: without reading all the holes of it. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { copyDisk } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";

const MiB = 1024 ** 2;

/** Remembers it now; the answer looks. `dataMib`: what it holds is in the first so many MiB, and in the last one. */
export async function remembered(path: string, dataMib: number): Promise<() => Promise<void>> {
  const before = `${path}.before`;
  await copyDisk(path, before);
  // The host's filesystem takes a block of its own when it writes out what was copied.
  await run(["sync", path]);
  const { blocks, size } = statSync(path);
  return async () => {
    // A write to a hole, of zeros too, takes blocks.
    assert.equal(statSync(path).blocks, blocks, `${path} was written to`);
    await run(["cmp", "--bytes", String(dataMib * MiB), path, before]);
    await run(["cmp", "--ignore-initial", String(size - MiB), path, before]);
  };
}
