import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { parseManifest, readHead } from "@capsule/api/update-bundle.ts";
import { signSlot, writeUpdate } from "./update.ts";
import { signingKey, trustedKeys } from "./update-key.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-bundle-"));
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(dir, name), content);
  return join(dir, name);
};
after(() => rmSync(dir, { recursive: true }));

test("a bundle is unpacked by tar, and openssl finds its signature good", async () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const slot = { vmlinuz: file("k", "kernel"), initrd: file("i", Buffer.alloc(512, 7)), squashfs: file("s", "root") };
  const target = join(dir, "update.tar");
  const signed = await signSlot(slot, { version: "1.0.0", epoch: 3, key: privateKey });
  await writeUpdate(signed, target);
  assert.deepEqual(parseManifest(readHead(readFileSync(target)).manifest), signed.manifest);
  execFileSync("tar", ["-C", dir, "-xf", target]);
  assert.equal(readFileSync(join(dir, "vmlinuz"), "utf8"), "kernel");
  assert.equal(readFileSync(join(dir, "root.squashfs"), "utf8"), "root");
  const sums = signed.manifest.files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join("");
  execFileSync("sha256sum", ["--check", "--quiet"], { cwd: dir, input: sums });
  file("key.pem", publicKey.export({ type: "spki", format: "pem" }) as string);
  const verify = [
    "-verify",
    "-pubin",
    "-inkey",
    "key.pem",
    "-rawin",
    "-in",
    "manifest.json",
    "-sigfile",
    "manifest.sig",
  ];
  execFileSync("openssl", ["pkeyutl", ...verify], { cwd: dir });
});

test("an image trusts the key that signs, and those that it is told of; other kinds of keys are refused", () => {
  const pem = (kind: "ed25519" | "x25519"): { secret: string; open: string } => {
    const { privateKey, publicKey } =
      kind === "ed25519" ? generateKeyPairSync("ed25519") : generateKeyPairSync("x25519");
    const [secret, open] = [
      privateKey.export({ type: "pkcs8", format: "pem" }) as string,
      publicKey.export({ type: "spki", format: "pem" }) as string,
    ];
    return { secret, open };
  };
  const [mine, others, wrong] = [pem("ed25519"), pem("ed25519"), pem("x25519")];
  const saved = { ...process.env };
  try {
    process.env["UPDATE_KEY"] = file("mine.key", mine.secret);
    process.env["UPDATE_TRUST"] = file("others.pem", others.open);
    assert.deepEqual(trustedKeys(), { "0.pem": mine.open, "1.pem": others.open });
    process.env["UPDATE_TRUST"] = file("wrong.pem", wrong.open);
    assert.throws(() => trustedKeys(), /x25519.*Ed25519/);
    process.env["UPDATE_KEY"] = file("wrong.key", wrong.secret);
    assert.throws(() => signingKey(), /x25519.*Ed25519/);
    delete process.env["UPDATE_KEY"];
    delete process.env["UPDATE_TRUST"];
    // The same at each build of a checkout.
    const [first, again] = [signingKey(), signingKey()].map((key) => createPublicKey(key).export({ format: "jwk" }));
    assert.deepEqual(first, again);
  } finally {
    process.env = saved;
  }
});
