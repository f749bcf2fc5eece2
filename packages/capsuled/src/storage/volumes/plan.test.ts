import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { VolumePhase } from "@capsule/api";
import type { Disk } from "../pool/backend.ts";
import { type Plan, plan, type Seen, type Wanted } from "./plan.ts";

const MiB = 1024 ** 2;
const aVolume = (more: Partial<Wanted> = {}): Wanted => ({
  deleting: false,
  provisioned: true,
  sizeBytes: 64 * MiB,
  diskName: "vol-a",
  ...more,
});
const aDisk = (more: Partial<Disk> = {}): Disk => ({
  name: "vol-a",
  uid: "da",
  whole: true,
  sizeBytes: 64 * MiB,
  usedBytes: 0,
  ...more,
});
const nothing: Seen = {
  disk: undefined,
  squatter: undefined,
  filesystem: undefined,
  mounted: false,
  holders: [],
  attached: false,
  growsUnmountedOnly: false,
  snapshots: 0,
};
const itsDisk = (disk: Partial<Disk> = {}, more: Partial<Seen> = {}): Seen => ({
  ...nothing,
  disk: aDisk(disk),
  filesystem: { sizeBytes: 64 * MiB, hasErrors: false, damage: undefined },
  ...more,
});
const kinds = (made: Plan): [string, string] => [made.step.kind, VolumePhase[made.phase]];

describe("a new volume", () => {
  const fresh = aVolume({ provisioned: false });
  test("is made, then noted", () => {
    assert.deepEqual(kinds(plan(fresh, nothing)), ["create", "PENDING"]);
    assert.deepEqual(kinds(plan(fresh, itsDisk())), ["provision", "PENDING"]);
  });
  test("that was cut while it was made begins anew", () => {
    assert.deepEqual(kinds(plan(fresh, itsDisk({ whole: false }))), ["discard", "PENDING"]);
  });
  test("does not touch a whole disk that has its name", () => {
    const made = plan(fresh, { ...nothing, squatter: { disk: aDisk({ uid: "other" }), moveTo: undefined } });
    assert.deepEqual(kinds(made), ["none", "FAILED"]);
    assert.match(made.message, /not this volume's/);
  });
  test("removes an unfinished one that has its name", () => {
    const squatter = { disk: aDisk({ uid: "other", whole: false }), moveTo: undefined };
    assert.deepEqual(kinds(plan(fresh, { ...nothing, squatter })), ["discard", "PENDING"]);
  });
});

describe("a volume that has been whole", () => {
  test("is missing when its disk is gone, and never made anew", () => {
    const made = plan(aVolume(), nothing);
    assert.deepEqual(kinds(made), ["none", "MISSING"]);
    assert.match(made.message, /vol-a is not in the pool/);
  });
  test("is ready with its disk", () => {
    assert.deepEqual(kinds(plan(aVolume(), itsDisk())), ["none", "READY"]);
  });
  test("without a filesystem, or with a damaged one, has failed and is left alone", () => {
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { filesystem: undefined }))), ["none", "FAILED"]);
    const damaged = { sizeBytes: 64 * MiB, hasErrors: true, damage: "bad blocks" };
    const made = plan(aVolume(), itsDisk({}, { filesystem: damaged }));
    assert.deepEqual(kinds(made), ["none", "FAILED"]);
    assert.match(made.message, /bad blocks/);
  });
  test("that has noted an error is looked through before it is used again", () => {
    const filesystem = { sizeBytes: 64 * MiB, hasErrors: true, damage: undefined };
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { filesystem }))), ["verify", "PENDING"]);
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { filesystem, holders: ["web"] }))), ["verify", "PENDING"]);
    for (const inUse of [{ mounted: true }, { attached: true }]) {
      const seen = itsDisk({}, { filesystem, holders: ["web"], ...inUse });
      assert.deepEqual(kinds(plan(aVolume(), seen)), ["none", "FAILED"]);
    }
  });
  test("is unmounted when nobody holds it, also when it is damaged", () => {
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { mounted: true }))), ["unmount", "READY"]);
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { mounted: true, holders: ["web"] }))), ["none", "READY"]);
    const damaged = { sizeBytes: 64 * MiB, hasErrors: true, damage: undefined };
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({}, { mounted: true, filesystem: damaged }))), ["unmount", "READY"]);
  });
});

describe("a restored or imported disk", () => {
  test("comes into place", () => {
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({ name: "next-d", whole: false }))), ["place", "PENDING"]);
  });
  test("after the one before has moved aside, which is a snapshot now", () => {
    const squatter = { disk: aDisk({ uid: "before" }), moveTo: "snap-s" };
    const made = plan(aVolume(), itsDisk({ name: "next-d", whole: false }, { squatter }));
    assert.deepEqual(made.step, { kind: "move", disk: squatter.disk, name: "snap-s" });
  });
});

describe("growing", () => {
  const larger = aVolume({ sizeBytes: 128 * MiB });
  test("takes the disk first, then the filesystem, mounted or not", () => {
    assert.deepEqual(kinds(plan(larger, itsDisk())), ["growDisk", "READY"]);
    for (const more of [{}, { mounted: true, holders: ["web"] }])
      assert.deepEqual(kinds(plan(larger, itsDisk({ sizeBytes: 128 * MiB }, more))), ["growFilesystem", "READY"]);
  });
  test("waits for the unmount where the kernel wants that", () => {
    const seen = { mounted: true, holders: ["web"], growsUnmountedOnly: true };
    assert.deepEqual(kinds(plan(larger, itsDisk({ sizeBytes: 128 * MiB }, seen))), ["none", "READY"]);
  });
  test("a disk that is larger than asked for is left so", () => {
    const filesystem = { sizeBytes: 128 * MiB, hasErrors: false, damage: undefined };
    assert.deepEqual(kinds(plan(aVolume(), itsDisk({ sizeBytes: 128 * MiB }, { filesystem }))), ["none", "READY"]);
  });
});

describe("deleting", () => {
  const gone = aVolume({ deleting: true });
  test("waits for its users, unmounts, removes the disk, then the record", () => {
    const waits = plan(gone, itsDisk({}, { mounted: true, holders: ["web"] }));
    assert.deepEqual(kinds(waits), ["none", "DELETING"]);
    assert.match(waits.message, /web/);
    assert.deepEqual(kinds(plan(gone, itsDisk({}, { mounted: true }))), ["unmount", "DELETING"]);
    assert.deepEqual(kinds(plan(gone, itsDisk())), ["removeDisk", "DELETING"]);
    assert.deepEqual(kinds(plan(gone, { ...nothing, snapshots: 2 })), ["removeSnapshots", "DELETING"]);
    assert.deepEqual(kinds(plan(gone, nothing)), ["forget", "DELETING"]);
  });
  test("never touches a disk of another uid", () => {
    const squatter = { disk: aDisk({ uid: "other" }), moveTo: undefined };
    assert.deepEqual(kinds(plan(gone, { ...nothing, squatter })), ["forget", "DELETING"]);
  });
});
