/** Whose bundles this capsule takes: the public keys in its image. */
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { BundleHead } from "@capsule/api/update-bundle.ts";
import { CapsuleError } from "../errors.ts";

/** image/layer.ts puts them there. */
export const trustedKeysDir = "/etc/capsule/update-keys";

export async function readTrustedKeys(dir: string): Promise<KeyObject[]> {
  const names = (await readdir(dir).catch(() => [])).filter((name) => name.endsWith(".pem")).sort();
  return await Promise.all(names.map(async (name) => createPublicKey(await readFile(join(dir, name)))));
}

/** Throws unless one of the keys has signed the manifest (Ed25519, RFC 8032, over its bytes as they are). */
export function checkSignature({ manifest, signature }: BundleHead, keys: readonly KeyObject[]): void {
  if (signature.length === 0)
    throw new CapsuleError("invalid", "The bundle is not signed; nothing was changed.", { reason: "BUNDLE_UNSIGNED" });
  if (!isSigned({ manifest, signature }, keys))
    throw new CapsuleError(
      "denied",
      `The bundle is signed by none of the ${keys.length} keys that this capsule trusts, or was changed after it was signed; nothing was changed. ` +
        "Sign it with the key that the running image was built with (UPDATE_KEY), or build images that trust another one too (UPDATE_TRUST).",
      { reason: "BUNDLE_UNTRUSTED" },
    );
}

export function isSigned({ manifest, signature }: BundleHead, keys: readonly KeyObject[]): boolean {
  return keys.some((key) => key.asymmetricKeyType === "ed25519" && verify(null, manifest, key, signature));
}
