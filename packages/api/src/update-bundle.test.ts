import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import {
  type BundleManifest,
  encodeManifest,
  memberNames,
  mismatchOf,
  parseManifest,
  readHead,
  segmentsOf,
  sizeOfSegments,
  tarHeader,
} from "./update-bundle.ts";

const files = memberNames.map((name, at) => ({ name, sizeBytes: 511 + at, sha256: "0123456789abcdef".repeat(4) }));
const manifest: BundleManifest = { format: 1, version: "1.2.3", architecture: "amd64", epoch: 7, files };
const head = { manifest: encodeManifest(manifest), signature: new Uint8Array(64).fill(9) };

function archive(of: BundleManifest = manifest): Uint8Array {
  const segments = segmentsOf({ ...head, manifest: encodeManifest(of) }, of);
  const bytes = new Uint8Array(sizeOfSegments(segments));
  for (const segment of segments) {
    if (segment.kind === "fixed") bytes.set(segment.bytes, segment.startBytes);
    else bytes.fill(0x61, segment.startBytes, segment.startBytes + segment.file.sizeBytes);
  }
  return bytes;
}

/** A manifest as somebody may write one, whatever it holds. */
const encoded = (value: unknown): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, undefined, 2)}\n`);
const withReason = (reason: string) => (error: unknown) => (error as { reason?: string }).reason === reason;

test("an archive is one that tar reads, with the members in their order", () => {
  const listing = execFileSync("tar", ["-tvf", "-", "--numeric-owner"], { input: archive(), encoding: "utf8" });
  const lines = listing.trim().split("\n");
  assert.deepEqual(
    lines.map((line) => line.split(/\s+/)).map(([mode, owner, size, , , name]) => [mode, owner, size, name]),
    [
      ["-rw-r--r--", "0/0", String(head.manifest.length), "manifest.json"],
      ["-rw-r--r--", "0/0", "64", "manifest.sig"],
      ["-rw-r--r--", "0/0", "511", "vmlinuz"],
      ["-rw-r--r--", "0/0", "512", "initrd"],
      ["-rw-r--r--", "0/0", "513", "root.squashfs"],
    ],
  );
});

test("a header says sizes above eight GiB as GNU's tar does", () => {
  const gnu = execFileSync("sh", [
    "-c",
    'd=$(mktemp -d) && cd "$d" && truncate -s 9G x && tar --format=gnu --mode=0644 --owner=0 --group=0 --mtime=@0 -cf - x | head -c 512; rm -r "$d"',
  ]);
  assert.deepEqual(Buffer.from(tarHeader("x", 9 * 1024 ** 3).subarray(124, 136)), gnu.subarray(124, 136));
});

test("what was written is read again", () => {
  const read = readHead(archive());
  assert.deepEqual(Buffer.from(read.manifest), Buffer.from(head.manifest));
  assert.deepEqual(read.signature, head.signature);
  assert.deepEqual(parseManifest(read.manifest), manifest);
});

test("what is no bundle, is cut or has no signature is told by its one reason", () => {
  const whole = archive();
  for (const none of [new Uint8Array(0), new Uint8Array(4_096), encoded({ hello: "world" }), whole.subarray(1)])
    assert.throws(() => readHead(none), withReason("NOT_A_BUNDLE"));
  assert.throws(() => readHead(whole.subarray(0, 600)), withReason("BUNDLE_TRUNCATED"));
  assert.throws(() => readHead(whole.subarray(0, 512 + head.manifest.length)), withReason("BUNDLE_TRUNCATED"));
  const padded = Math.ceil(head.manifest.length / 512) * 512;
  const unsigned = new Uint8Array([...whole.subarray(0, 512 + padded), ...whole.subarray(512 + padded + 1024)]);
  assert.throws(() => readHead(unsigned), withReason("BUNDLE_UNSIGNED"));
  const short = new Uint8Array([...whole.subarray(0, 512 + padded), ...tarHeader("manifest.sig", 3), 1, 2, 3]);
  assert.throws(() => readHead(short), withReason("BUNDLE_UNSIGNED"));
});

test("a manifest with members too many, twice, missing or in another order is refused", () => {
  const [kernel, initrd, root] = files;
  const refusals: readonly [unknown[], string][] = [
    [[...files, { ...kernel, name: "grub.cfg" }], "BUNDLE_MEMBER_EXTRA"],
    [[...files, kernel], "BUNDLE_MEMBER_EXTRA"],
    [[...files, null], "BUNDLE_MEMBER_EXTRA"],
    [[kernel, initrd], "BUNDLE_MEMBER_MISSING"],
    [[], "BUNDLE_MEMBER_MISSING"],
    [[initrd, kernel, root], "NOT_A_BUNDLE"],
  ];
  for (const [list, reason] of refusals)
    assert.throws(() => parseManifest(encoded({ ...manifest, files: list })), withReason(reason), JSON.stringify(list));
});

test("a manifest with an impossible value, or written otherwise, is refused", () => {
  const [first, ...others] = files;
  const bad: unknown[] = [
    null,
    17,
    { ...manifest, format: 2 },
    { ...manifest, version: "../1" },
    { ...manifest, version: 1 },
    { ...manifest, architecture: "" },
    { ...manifest, epoch: -1 },
    { ...manifest, epoch: 1.5 },
    { ...manifest, epoch: "7" },
    { ...manifest, files: "all" },
    { ...manifest, more: 1 },
    { ...manifest, files: [{ ...first, sizeBytes: 0 }, ...others] },
    { ...manifest, files: [{ ...first, sizeBytes: 2 ** 60 }, ...others] },
    { ...manifest, files: [{ ...first, sha256: "0" }, ...others] },
  ];
  for (const value of bad)
    assert.throws(() => parseManifest(encoded(value)), withReason("NOT_A_BUNDLE"), JSON.stringify(value));
  assert.throws(() => parseManifest(new TextEncoder().encode(JSON.stringify(manifest))), withReason("NOT_A_BUNDLE"));
  assert.throws(() => parseManifest(new Uint8Array([0xff, 0xfe])), withReason("NOT_A_BUNDLE"));
});

test("other bytes than the manifest tells of are named by what they are", () => {
  const header = tarHeader("initrd", 512);
  const reasonOf = (expected: Uint8Array, found: Uint8Array): string => mismatchOf(expected, found).reason;
  assert.equal(reasonOf(header, tarHeader("root.squashfs", 5)), "BUNDLE_MEMBER_MISSING");
  assert.equal(reasonOf(header, new Uint8Array(512)), "BUNDLE_MEMBER_MISSING");
  assert.equal(reasonOf(header, tarHeader("grub.cfg", 5)), "BUNDLE_MEMBER_EXTRA");
  assert.equal(reasonOf(header, tarHeader("initrd", 513)), "BUNDLE_DAMAGED");
  assert.equal(reasonOf(new Uint8Array(1024), tarHeader("more", 1)), "BUNDLE_MEMBER_EXTRA");
  assert.equal(reasonOf(new Uint8Array(3), new Uint8Array([0, 0, 1])), "BUNDLE_DAMAGED");
});
