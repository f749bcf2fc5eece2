import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { CapsuleError } from "../errors.ts";
import { type Contents, contentsOf, type Evidence } from "./contents.ts";
import type { Disk } from "./disks.ts";
import { clearMarker, markerAt, markerSector } from "./marker.ts";
import { checkedTarget, type Medium, type Target, targetOf, type Wanted } from "./targets.ts";

const MiB = 1024 ** 2;
const aDisk = (changes: Partial<Disk> = {}): Disk => ({
  ...{ path: "/dev/sda", sizeBytes: 8 * 1024 * MiB, sectorBytes: 512, model: "Disk", serial: "S1", transport: "sata" },
  ...{ removable: false, readOnly: false, users: [], partitions: [] },
  ...changes,
});
const medium: Medium = { disk: "/dev/sdb", slotBytes: 768 * MiB };
const blank: Contents = { kind: "blank", description: "blank" };
const data: Contents = { kind: "data", description: "ext4" };
const capsule: Contents = { kind: "capsule", description: "a capsule" };
const target = (disk: Partial<Disk>, contents = blank, isBusy = false): Target =>
  targetOf(aDisk(disk), contents, isBusy, medium);

describe("a disk is a target", () => {
  test("when it is inside, large enough and free, whatever is on it", () => {
    for (const contents of [blank, data, capsule]) assert.equal(target({}, contents).obstacle, "");
  });

  test("and else it is said why not", () => {
    const cases: readonly (readonly [Target, RegExp])[] = [
      [target({ path: "/dev/sdb" }), /installer runs from it/],
      [target({ transport: "usb" }), /on USB/],
      [target({ removable: true }), /removable/],
      [target({ readOnly: true }), /read-only/],
      [target({ sectorBytes: 4096 }), /4096 bytes/],
      [target({ sizeBytes: 1024 * MiB }), /1024 MiB and 3842 MiB are needed/],
      [target({ users: ["mounted at /mnt"] }), /in use: mounted at \/mnt/],
      [target({}, blank, true), /in use: another program/],
    ];
    for (const [{ obstacle }, wanted] of cases) assert.match(obstacle, wanted);
  });
});

describe("what is lost must have been given up", () => {
  const refusal = (wanted: Partial<Wanted>, ...targets: Target[]): string | undefined => {
    try {
      checkedTarget(targets, { path: "/dev/sda", reinstall: false, erase: "", ...wanted });
      return undefined;
    } catch (error) {
      assert.ok(error instanceof CapsuleError);
      return error.reason;
    }
  };

  test("nothing to lose: nothing to say", () => {
    assert.equal(refusal({}, target({})), undefined);
    assert.equal(refusal({}, target({}, { kind: "unfinished", description: "" })), undefined);
  });

  test("data by the serial number, or the name of a disk that has none", () => {
    assert.equal(refusal({}, target({}, data)), "NOT_CONFIRMED");
    assert.equal(refusal({ erase: "S2" }, target({}, data)), "NOT_CONFIRMED");
    assert.equal(refusal({ erase: "S1" }, target({}, data)), undefined);
    assert.equal(refusal({ erase: "sda" }, target({ serial: "" }, data)), undefined);
  });

  test("a capsule by a word of its own, and the serial number too", () => {
    assert.equal(refusal({ erase: "S1" }, target({}, capsule)), "HOLDS_CAPSULE");
    assert.equal(refusal({ reinstall: true }, target({}, capsule)), "NOT_CONFIRMED");
    assert.equal(refusal({ reinstall: true, erase: "S1" }, target({}, capsule)), undefined);
    // The word is for capsules; it gives up nothing else.
    assert.equal(refusal({ reinstall: true }, target({}, data)), "NOT_CONFIRMED");
  });

  test("no confirmation overrules an obstacle; what is not there is not there", () => {
    assert.equal(refusal({ reinstall: true, erase: "S1" }, target({}, data, true)), "UNUSABLE_DISK");
    assert.equal(refusal({ path: "/dev/sdz" }, target({})), "NO_SUCH_DISK");
  });
});

describe("what is on a disk", () => {
  const none = { type: "", label: "", table: "" };
  const evidence = (changes: Partial<Evidence> = {}): Evidence => ({
    ...{ head: Buffer.alloc(MiB), tail: Buffer.alloc(MiB), whole: none, partitions: [] },
    ...changes,
  });
  const partition = (name: string, type: string, label = "") => ({
    ...{ path: "/dev/sda1", name, sizeBytes: MiB },
    format: { type, label, table: "" },
  });
  const signed = (): Buffer => {
    const head = Buffer.alloc(MiB);
    head.writeUInt32LE(0xb1a570ff, 440);
    return head;
  };

  test("nothing is nothing only when both ends say so", () => {
    assert.equal(contentsOf(evidence()).kind, "blank");
    const written = Buffer.alloc(MiB);
    written[MiB - 1] = 1;
    assert.deepEqual(contentsOf(evidence({ tail: written })), { kind: "data", description: "data of no known format" });
    assert.equal(contentsOf(evidence({ head: written })).kind, "data");
    assert.equal(contentsOf(evidence({ whole: { ...none, table: "gpt" } })).kind, "data");
    assert.equal(contentsOf(evidence({ whole: { ...none, type: "ext4", label: "x" } })).description, 'ext4 "x"');
  });

  test("partitions are told by what they hold", () => {
    const partitions = [partition("Basic data", "ntfs", "Windows"), partition("", "ext4"), partition("root", "")];
    assert.deepEqual(contentsOf(evidence({ partitions })), {
      kind: "data",
      description: '3 partitions: ntfs "Windows", ext4, unknown "root"',
    });
  });

  test("a capsule is one by its signature and its partitions", () => {
    const partitions = [partition("PERM", "LVM2_member")];
    assert.equal(contentsOf(evidence({ head: signed(), partitions })).kind, "capsule");
    assert.equal(contentsOf(evidence({ partitions })).kind, "data");
    assert.equal(contentsOf(evidence({ head: signed(), partitions: [partition("C", "ntfs")] })).kind, "data");
  });

  test("an install that was cut is known at each moment of it", () => {
    const head = signed();
    markerSector().copy(head, markerAt);
    assert.equal(contentsOf(evidence({ head, partitions: [partition("PERM", "LVM2_member")] })).kind, "unfinished");
    assert.equal(contentsOf(evidence({ head })).kind, "unfinished");
  });

  test("until it was started, which it can be when only its last write is missing", async () => {
    const dir = mkdtempSync(join(tmpdir(), "capsule-marker-"));
    try {
      const [path, head] = [join(dir, "disk"), signed()];
      markerSector().copy(head, markerAt);
      writeFileSync(path, head);
      await clearMarker(path);
      const started = readFileSync(path);
      assert.ok(started.equals(signed()), "nothing else changes");
      assert.equal(
        contentsOf(evidence({ head: started, partitions: [partition("PERM", "LVM2_member")] })).kind,
        "capsule",
      );
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
