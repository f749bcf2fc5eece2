import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  type BundleManifest,
  encodeManifest,
  memberNames,
  segmentsOf,
  sizeOfSegments,
  tarHeader,
} from "@capsule/api/update-bundle.ts";
import { openBundle } from "./bundle.ts";
import { CliError } from "./errors.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-bundle-"));
after(() => rmSync(dir, { recursive: true }));
const files = memberNames.map((name) => ({ name, sizeBytes: 1_000, sha256: "0".repeat(64) }));
const manifest: BundleManifest = { format: 1, version: "1", architecture: "amd64", epoch: 1, files };
const head = { manifest: encodeManifest(manifest), signature: new Uint8Array(64) };
const segments = segmentsOf(head, manifest);
const whole = Buffer.alloc(sizeOfSegments(segments));
for (const segment of segments) if (segment.kind === "fixed") whole.set(segment.bytes, segment.startBytes);
const headerOf = (name: string): number => whole.indexOf(tarHeader(name, 1_000));

async function refusalOf(bytes: Uint8Array): Promise<string> {
  const path = join(dir, "bundle.tar");
  writeFileSync(path, bytes);
  try {
    await (await openBundle(path)).file.close();
    return "";
  } catch (error) {
    assert.ok(error instanceof CliError, String(error));
    return error.message.slice(path.length);
  }
}

test("a bundle is opened, and what is none, cut, unsigned, or has other members is refused with the one reason", async () => {
  assert.equal(await refusalOf(whole), "");
  assert.match(await refusalOf(Buffer.from("hello")), /refused: this is no update bundle/);
  assert.match(await refusalOf(whole.subarray(0, whole.length - 1)), /refused: it ends after/);
  assert.match(await refusalOf(whole.subarray(0, headerOf("initrd"))), /refused: it ends after/);
  assert.match(await refusalOf(Buffer.concat([whole, Buffer.alloc(512)])), /refused: it goes on after its end/);
  const at = headerOf("root.squashfs");
  const extra = Buffer.concat([whole.subarray(0, at), tarHeader("extra", 1_000), whole.subarray(at)]);
  assert.match(await refusalOf(extra), /a member "extra" too many/);
  const missing = Buffer.concat([whole.subarray(0, headerOf("initrd")), whole.subarray(at)]);
  assert.match(await refusalOf(missing), /the bundle has no initrd/);
  const early = Buffer.concat([whole.subarray(0, at), Buffer.alloc(1024)]);
  assert.match(await refusalOf(early), /the bundle has no root\.squashfs/);
  const unsigned = Buffer.concat([whole.subarray(0, 1536), whole.subarray(2560)]);
  assert.match(await refusalOf(unsigned), /not signed/);
  await assert.rejects(openBundle(join(dir, "none")), /cannot be read/);
});
