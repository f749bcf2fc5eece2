/** The key that signs bundles, and the keys whose bundles an image trusts. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildDir } from "./paths.ts";

/** Made by the first build of a checkout, for development: who has the checkout's build directory can update its capsules. */
const developmentKeyPath = join(buildDir, "update.key");

/** $UPDATE_KEY names a PEM of a private Ed25519 key; without it the development key signs. Throws when it is no such key. */
export function signingKey(): KeyObject {
  const path = process.env["UPDATE_KEY"] ?? "";
  if (path !== "") return ed25519(createPrivateKey(readFileSync(path)), path);
  makeDevelopmentKey();
  return ed25519(createPrivateKey(readFileSync(developmentKeyPath)), developmentKeyPath);
}

/** PEM by file name: the signing key's, and those that $UPDATE_TRUST names (paths of public keys in PEM, parted by ":"). */
export function trustedKeys(): Readonly<Record<string, string>> {
  const others = (process.env["UPDATE_TRUST"] ?? "").split(":").filter((path) => path !== "");
  const keys = [
    createPublicKey(signingKey()),
    ...others.map((path) => ed25519(createPublicKey(readFileSync(path)), path)),
  ];
  return Object.fromEntries(
    keys.map((key, at) => [`${at}.pem`, key.export({ type: "spki", format: "pem" }) as string]),
  );
}

function makeDevelopmentKey(): void {
  const scratch = `${developmentKeyPath}.${process.pid}`;
  mkdirSync(buildDir, { recursive: true });
  try {
    const { privateKey } = generateKeyPairSync("ed25519");
    writeFileSync(scratch, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
    // A link is never made over a key that is there: two builds at once have the same one.
    linkSync(scratch, developmentKeyPath);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    rmSync(scratch, { force: true });
  }
}

function ed25519(key: KeyObject, path: string): KeyObject {
  if (key.asymmetricKeyType === "ed25519") return key;
  throw new Error(`${path} is a key of type ${key.asymmetricKeyType}: bundles are signed with Ed25519`);
}
