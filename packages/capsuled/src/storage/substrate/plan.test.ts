import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { wholeTag } from "../layout.ts";
import { nextStep, type Observed, permBytes, type SeenVolume, SubstrateError } from "./plan.ts";

const GiB = 1024 ** 3;
const MiB = 1024 ** 2;

const aDisk = (contents: string, freeBehindBytes = 0): Observed => ({
  partition: { device: "/dev/vda4", sizeBytes: 6 * GiB, freeBehindBytes, contents },
  group: undefined,
  pvGrowBytes: 0,
  groupSizeBytes: 0,
  groupFreeBytes: 0,
  volumes: [],
  active: false,
});
const aGroup = (volumes: readonly SeenVolume[], more: Partial<Observed> = {}): Observed => ({
  ...aDisk("LVM2_member"),
  group: "capsule",
  groupSizeBytes: 6 * GiB,
  groupFreeBytes: 6 * GiB - volumes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  active: true,
  volumes,
  ...more,
});
const volume = (name: string, tags: string[] = [wholeTag], sizeBytes = 1.5 * GiB, isThin = false): SeenVolume => ({
  name,
  sizeBytes,
  tags,
  isThin,
});
const kindOf = (observed: Observed): string | undefined => nextStep(observed)?.kind;

describe("a blank disk", () => {
  test("goes through every step in order", () => {
    assert.equal(kindOf(aDisk("blank", 2 * GiB)), "growPartition");
    assert.equal(kindOf(aDisk("blank")), "createPhysicalVolume");
    assert.equal(kindOf(aDisk("LVM2_member")), "createGroup");
    assert.equal(kindOf(aGroup([], { active: false })), "activate");
    assert.deepEqual(nextStep(aGroup([])), { kind: "createPerm", sizeBytes: 1.5 * GiB });
    assert.equal(kindOf(aGroup([volume("perm", [])])), "formatPerm");
    assert.equal(kindOf(aGroup([volume("perm")])), "createPool");
    assert.equal(kindOf(aGroup([volume("perm"), volume("pool")])), undefined);
  });

  test("a pool leaves room for its metadata to grow", () => {
    const step = nextStep(aGroup([volume("perm")]));
    assert.ok(step?.kind === "createPool");
    assert.ok(step.sizeBytes + 2 * step.metadataBytes < 4.5 * GiB * 0.95);
  });
});

describe("a cut", () => {
  test("while the pool was made: its remains go, and it is made again", () => {
    assert.deepEqual(nextStep(aGroup([volume("perm"), volume("pool", [])])), { kind: "removeVolume", name: "pool" });
    assert.deepEqual(nextStep(aGroup([volume("perm"), volume("lvol0", [])])), { kind: "removeVolume", name: "lvol0" });
  });

  test("never removes a pool that volumes live in", () => {
    assert.equal(kindOf(aGroup([volume("perm"), volume("pool", []), volume("vol-a", [], GiB, true)])), "markPool");
  });
});

describe("what is not ours", () => {
  test("is left alone, and named", () => {
    for (const contents of ["ext4", "crypto_LUKS", "unknown"])
      assert.throws(
        () => nextStep(aDisk(contents, GiB)),
        (error) => error instanceof SubstrateError && /not touched/.test(error.message),
      );
    assert.throws(() => nextStep(aGroup([], { group: "debian-vg" })), /debian-vg/);
  });
});

describe("a larger disk", () => {
  test("grows partition, physical volume and /perm, in this order", () => {
    const whole = [volume("perm"), volume("pool")];
    assert.equal(
      kindOf({ ...aGroup(whole), partition: { ...aDisk("LVM2_member", 10 * GiB).partition } }),
      "growPartition",
    );
    assert.equal(kindOf(aGroup(whole, { pvGrowBytes: 10 * GiB })), "growPhysicalVolume");
    const grown = aGroup(whole, { groupSizeBytes: 16 * GiB, groupFreeBytes: 13 * GiB });
    assert.deepEqual(nextStep(grown), { kind: "growPerm", sizeBytes: 4 * GiB });
    assert.equal(
      kindOf(aGroup(whole, { groupSizeBytes: 16 * GiB, groupFreeBytes: GiB })),
      undefined,
      "no room: left as it is",
    );
  });

  test("/perm is a quarter, 1 to 32 GiB", () => {
    assert.deepEqual(
      [2, 8, 64, 1_000].map((size) => permBytes(size * GiB) / GiB),
      [1, 2, 16, 32],
    );
    assert.equal(permBytes(5 * GiB + 1) % (4 * MiB), 0);
  });
});
