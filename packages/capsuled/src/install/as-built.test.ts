/** A stick as it was built, and with single bytes of it changed. */
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { bootFileBytes, imageManifest } from "../../../../image/disk/layout.ts";
import { CapsuleError } from "../errors.ts";
import type { Region } from "../update/region.ts";
import { checkStick, signedFiles } from "./as-built.ts";
import type { MediumDisk } from "./medium.ts";
import { builder, makeStick } from "./stick.test-support.ts";

let dir: string;
let medium: MediumDisk;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-as-built-"));
  medium = makeStick(dir, "a");
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** The bytes that were looked at; undefined when there is nothing to compare with. */
async function checkedBytes(keys: readonly KeyObject[] = [builder.publicKey]): Promise<number | undefined> {
  const files = await signedFiles(medium, keys);
  if (files === undefined) return undefined;
  let bytes = 0;
  for await (const step of checkStick(medium, files)) bytes += step;
  return bytes;
}

async function refusal(keys?: readonly KeyObject[]): Promise<string> {
  const error = await checkedBytes(keys).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof CapsuleError);
  assert.equal(error.reason, "DAMAGED_STICK");
  return error.message;
}

/** While one byte of a place has another value. */
async function changed<T>(region: Region, atBytes: number, look: () => Promise<T>): Promise<T> {
  const [{ startBytes } = { startBytes: Number.NaN }] = region.parts(atBytes, 1);
  const file = openSync(medium.disk, "r+");
  const flip = (): void => {
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, startBytes);
    byte.writeUInt8(byte.readUInt8(0) ^ 1);
    writeSync(file, byte, 0, 1, startBytes);
  };
  flip();
  try {
    return await look();
  } finally {
    flip();
    closeSync(file);
  }
}

test("as it was built it is whole", async () => {
  assert.equal(await checkedBytes(), 3_000_000 + 2 * 1_000_001);
});

test("one byte of system, kernel or initramfs that is another, and it is damaged", async () => {
  const system = medium.region("slot_a");
  for (const at of [0, 1_048_576, 2_999_999])
    assert.match(await changed(system, at, refusal), /root\.squashfs has another content/);
  for (const name of ["vmlinuz", "initrd"] as const) {
    const place = await medium.file(`/capsule/a/${name}`);
    assert.match(await changed(place, 1_000_000, refusal), new RegExp(`: ${name} has another content`));
    for (const at of [1_000_001, bootFileBytes[name] - 1])
      assert.match(await changed(place, at, refusal), new RegExp(`behind ${name} there is something else`));
  }
  assert.equal(await changed(system, 3_000_000, checkedBytes), 5_000_002, "what is behind the system is nobody's");
});

test("a manifest that its own keys have not signed is none", async () => {
  const other = generateKeyPairSync("ed25519").publicKey;
  for (const keys of [[], [other]]) assert.match(await refusal(keys), /signed by none/);
  assert.equal(await checkedBytes([other, builder.publicKey]), 5_000_002);
  for (const path of Object.values(imageManifest))
    assert.match(await changed(await medium.file(path), 40, refusal), /signed by none/);
});

test("of a stick that was updated nothing is known", async () => {
  assert.equal(await changed(await medium.file("/capsule/b/vmlinuz"), 100, checkedBytes), undefined);
  medium = makeStick(dir, "b");
  assert.equal(await checkedBytes(), undefined);
});
