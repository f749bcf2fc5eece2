/** From one file to another as from a stick to a disk; only what needs a kernel's devices (perm.ts) is left out. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { espOffset, layoutOf, minDiskBytes } from "../../../../image/disk/layout.ts";
import { loadIdentity } from "../auth/identity.ts";
import { CapsuleError } from "../errors.ts";
import { Store } from "../store/store.ts";
import { comparePieces, copyPieces, type Digests } from "./copy.ts";
import { hasMarker, markerAt } from "./marker.ts";
import { MediumDisk } from "./medium.ts";
import { writeSeed } from "./perm.ts";
import { partitionOf, piecesOf, type TargetDisk } from "./pieces.ts";
import { kernelPieces, makeStart, settleBootPartition, startSteps } from "./start.ts";
import { bootFile, bytesAt, makeStick, makeUsedDisk, readEnvironment, slotBytes } from "./stick.test-support.ts";
import { notBootable, takeOver } from "./table.ts";

const MiB = 1024 ** 2;
const sizeBytes = minDiskBytes(slotBytes) + 512 * MiB + 12_800;
let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-install-"));
});
after(() => rmSync(dir, { recursive: true, force: true }));

async function copyAll(medium: MediumDisk, target: TargetDisk): Promise<void> {
  const digests: Digests = new Map();
  const pieces = await piecesOf(medium, target);
  for await (const _ of copyPieces(pieces, digests));
  for await (const _ of comparePieces(pieces, digests));
  const kernels = await kernelPieces(medium, target);
  for await (const _ of copyPieces(kernels, digests));
  for await (const _ of comparePieces(kernels, digests));
  await settleBootPartition(medium, target);
}

const signatureOf = (path: string): string => bytesAt(path, 440, 4).toString("hex");
const espOf = (path: string): string =>
  bytesAt(path, espOffset + 510, 2).toString("hex") === "55aa" ? "starts" : "nothing";

describe("a disk with somebody's data", () => {
  let target: TargetDisk;
  let medium: MediumDisk;
  before(async () => {
    medium = makeStick(dir, "b");
    target = { path: makeUsedDisk(join(dir, "used"), sizeBytes), sizeBytes };
    await takeOver(target, slotBytes);
  });

  test("taken over it starts nothing, and is known as an install that is not finished", () => {
    assert.ok(hasMarker(bytesAt(target.path, 0, MiB)));
    assert.deepEqual(bytesAt(target.path, 0, 5), notBootable);
    assert.equal(signatureOf(target.path), "00000000");
    assert.equal(espOf(target.path), "nothing");
    for (const { name, startBytes, sizeBytes: size } of layoutOf(sizeBytes, slotBytes).slice(0, 4))
      for (const at of [startBytes, startBytes + size - MiB])
        assert.ok(bytesAt(target.path, at, MiB).equals(Buffer.alloc(MiB)), `${name} is blank at ${at}`);
  });

  test("its table is the layout's, of ids of its own", () => {
    const table = (path: string) =>
      JSON.parse(execFileSync("sfdisk", ["--json", path], { encoding: "utf8" })).partitiontable as {
        id: string;
        partitions: { name: string; start: number; size: number; uuid: string }[];
      };
    const [own, sticks] = [table(target.path), table(medium.disk)];
    const found = new Map(own.partitions.map(({ name, start, size }) => [name, [start * 512, size * 512]]));
    for (const { name, startBytes, sizeBytes: size } of layoutOf(sizeBytes, slotBytes))
      assert.deepEqual(found.get(name), [startBytes, size]);
    assert.notEqual(own.id, sticks.id);
    assert.equal(new Set([...own.partitions, ...sticks.partitions].map(({ uuid }) => uuid)).size, 10);
  });

  test("copied to it still starts nothing, and each last write makes it start whole or leaves it as it is", async () => {
    await copyAll(medium, target);
    const stickCode = bytesAt(medium.disk, 0, 440);
    const { steps } = await startSteps(medium, target);
    const seen: string[] = [];
    const look = (): void => {
      const [uefi, hasSignature] = [espOf(target.path) === "starts", signatureOf(target.path) === "ff70a5b1"];
      const bios = bytesAt(target.path, 0, 440).equals(stickCode);
      if (!bios) assert.deepEqual(bytesAt(target.path, 0, 5), notBootable);
      if (uefi) assert.ok(hasSignature, "UEFI starts a system that finds its disk");
      if (bios) assert.ok(uefi, "BIOS starts what UEFI would start");
      const isFinished = !hasMarker(bytesAt(target.path, 0, MiB));
      if (isFinished) assert.ok(bios);
      seen.push(`${uefi ? "uefi " : ""}${bios ? "bios " : ""}${isFinished ? "done" : ""}`.trim());
    };
    look();
    for (const step of steps) {
      await step();
      look();
    }
    assert.deepEqual(seen, ["", "", "", "uefi", "uefi bios", "uefi bios done"]);
  });

  test("again from the beginning, after any of these, it is the same", async () => {
    await takeOver(target, slotBytes);
    await copyAll(medium, target);
    await makeStart(medium, target);
    assert.ok(!hasMarker(bytesAt(target.path, 0, MiB)));
  });

  test("then the slot that ran is slot a, with its kernel, and what the stick was told is forgotten", () => {
    const slotA = partitionOf(layoutOf(sizeBytes, slotBytes), "slot_a").startBytes;
    assert.ok(
      bytesAt(target.path, slotA, 2_999_808).equals(
        bytesAt(medium.disk, medium.extentOf("slot_b").startBytes, 2_999_808),
      ),
    );
    for (const name of ["vmlinuz", "initrd"])
      assert.equal(bootFile(target.path, espOffset, `/capsule/a/${name}`).subarray(0, 9).toString(), "bbbbbbbbb");
    assert.match(readEnvironment(target.path, espOffset), /^GRUB Environment Block\ncapsule_slot=a$/);
    assert.match(readEnvironment(medium.disk, espOffset), /capsule_slot=b\ncapsule_mode=installer/);
    const bios = partitionOf(layoutOf(sizeBytes, slotBytes), "BIOSBOOT").startBytes;
    assert.ok(bytesAt(target.path, bios, 99_840).equals(bytesAt(medium.disk, bios, 99_840)));
  });

  test("and its boot partition is told from the stick's, in both copies of its first sector", () => {
    const id = (path: string, sector: number) =>
      bytesAt(path, espOffset + sector * 512, 512)
        .subarray(67, 71)
        .toString("hex");
    assert.equal(id(medium.disk, 0), "ff70a5b1");
    assert.notEqual(id(target.path, 0), "ff70a5b1");
    assert.equal(id(target.path, 6), id(target.path, 0));
    execFileSync("fsck.fat", ["-n", "-v", extracted(target.path)]);
  });
});

/** The boot partition as a file of its own. */
function extracted(disk: string): string {
  const path = join(dir, "extracted");
  execFileSync("dd", [`if=${disk}`, `of=${path}`, "bs=1M", "skip=1", "count=256", "conv=sparse"], { stdio: "ignore" });
  return path;
}

describe("a stick", () => {
  const aTarget = (): TargetDisk => ({ path: join(dir, "never-opened"), sizeBytes });
  const refusal = async (medium: MediumDisk): Promise<CapsuleError> => {
    const error = await piecesOf(medium, aTarget()).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    assert.ok(error instanceof CapsuleError);
    return error;
  };

  test("whose slot or boot partition is damaged is refused before anything is written", async () => {
    const medium = makeStick(dir, "a");
    const spoilt = async (at: number): Promise<string> => {
      const whole = bytesAt(medium.disk, at, 512);
      const put = (data: Buffer): void => {
        const file = openSync(medium.disk, "r+");
        writeSync(file, data, 0, 512, at);
        closeSync(file);
      };
      put(Buffer.alloc(512));
      const { message } = await refusal(medium);
      put(whole);
      return message;
    };
    assert.match(await spoilt(medium.extentOf("slot_a").startBytes), /slot a holds no system/);
    assert.match(await spoilt(espOffset), /boot partition cannot be read/);
    const none = new MediumDisk(medium.disk, "a", new Map());
    assert.equal((await refusal(none)).reason, "NO_IMAGE");
  });

  test("is copied to a disk that gives something else back: that is noticed", async () => {
    const medium = makeStick(dir, "a");
    const target = { path: makeUsedDisk(join(dir, "failing"), sizeBytes), sizeBytes };
    const digests: Digests = new Map();
    const pieces = await piecesOf(medium, target);
    for await (const _ of copyPieces(pieces, digests));
    const file = openSync(target.path, "r+");
    writeSync(
      file,
      Buffer.from("x"),
      0,
      1,
      partitionOf(layoutOf(sizeBytes, slotBytes), "slot_a").startBytes + 2_000_000,
    );
    closeSync(file);
    await assert.rejects(
      async () => {
        for await (const _ of comparePieces(pieces, digests));
      },
      (error) =>
        error instanceof CapsuleError && error.reason === "FAILING_DISK" && /another system back/.test(error.message),
    );
  });
});

test("the marker is where neither the table nor GRUB is", () => {
  assert.ok(markerAt >= 34 * 512 && markerAt + 512 === espOffset);
});

test("what is seeded is what a first boot finds: an identity, one admin, a name", async () => {
  const perm = join(dir, "perm");
  execFileSync("mkdir", [perm]);
  const key = { id: "0123456789abcdef", name: "anna@laptop", publicKey: new Uint8Array(32).fill(7) };
  const { capsuleId, fingerprint } = await writeSeed(perm, { key, hostname: "nuc-1" });
  const store = new Store(join(perm, "state.db"));
  const found = await loadIdentity(store, join(perm, "tls"));
  assert.deepEqual([found.capsuleId, found.fingerprint], [capsuleId, fingerprint]);
  assert.deepEqual(
    store.keys.list().map(({ id, name, role }) => [id, name, role]),
    [[key.id, key.name, 3]],
  );
  store.close();
  assert.equal(execFileSync("cat", [join(perm, "capsule/hostname")], { encoding: "utf8" }), "nuc-1\n");
});
