import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultSlotBytes, LayoutError, layoutOf, minDiskBytes, sfdiskScript } from "./layout.ts";

const GiB = 1024 ** 3;

test("partitions follow each other, aligned, and leave room for GPT's copy", () => {
  for (const disk of [minDiskBytes(), 8 * GiB, 8 * GiB + 12_345, 4_000 * GiB]) {
    const partitions = layoutOf(disk);
    let end = 1024 * 1024;
    for (const { startBytes, sizeBytes } of partitions.slice(0, 4)) {
      assert.equal(startBytes, end);
      assert.equal(startBytes % (1024 * 1024), 0);
      end = startBytes + sizeBytes;
    }
    assert.ok(end <= disk - 33 * 512);
    const bios = partitions[4];
    assert.ok(bios !== undefined && bios.startBytes >= 34 * 512 && bios.startBytes + bios.sizeBytes <= 1024 * 1024);
  }
});

test("a larger disk changes PERM only: an image grows where it lies", () => {
  const [small, large] = [layoutOf(8 * GiB), layoutOf(800 * GiB)];
  assert.deepEqual(small.slice(0, 3), large.slice(0, 3));
  assert.equal(small[3]?.startBytes, large[3]?.startBytes);
});

test("what does not fit is refused with what is needed", () => {
  assert.throws(
    () => layoutOf(minDiskBytes() - 1),
    (error) => error instanceof LayoutError && /needed/.test(error.message),
  );
  assert.throws(() => layoutOf(8 * GiB, defaultSlotBytes + 1), LayoutError);
  assert.throws(() => layoutOf(8 * GiB, 4 * GiB), LayoutError);
});

test("the script names every partition", () => {
  const script = sfdiskScript(layoutOf(8 * GiB), "id", (number) => `u${number}`);
  assert.match(script, /^2 : start=526336, size=1572864, .*name="slot_a", uuid=u2$/m);
});
