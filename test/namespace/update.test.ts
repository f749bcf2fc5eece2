/** Updates where there are no slots: said so, and nothing else. (On a machine: test/qemu/update.test.ts.) */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { signSlot, writeUpdate } from "../../image/update.ts";
import { signingKey } from "../../image/update-key.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("update", []);
});
after(async () => await capsule?.stop());

test("every verb of updates says that a capsule in a namespace has no slots", async () => {
  const file = join(capsule.dir, "part");
  writeFileSync(file, "content");
  const bundle = join(capsule.dir, "update.tar");
  const slot = { vmlinuz: file, initrd: file, squashfs: file };
  await writeUpdate(await signSlot(slot, { version: "9.9.9", epoch: 9, key: signingKey() }), bundle);
  for (const verb of [["push", bundle], ["status"], ["confirm"], ["rollback", "--yes"]]) {
    const { code, stdout, stderr } = await capsule.try(["capsule", "update", ...verb]);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /has no slots: it runs in a namespace.*make up/);
  }
});

test("what is no bundle is refused before the capsule is asked", async () => {
  const file = join(capsule.dir, "none.tar");
  writeFileSync(file, "content");
  const { code, stderr } = await capsule.try(["capsule", "update", "push", file]);
  assert.equal(code, 1);
  assert.match(stderr, /refused: this is no update bundle\. Nothing was sent/);
});
