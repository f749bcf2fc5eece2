/** Keys of operators: Ed25519, known by a short id. Daemon and CLI must agree on every byte here. */
import { createHash, createPublicKey, type KeyObject } from "node:crypto";

/** DER header of the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410); the 32 raw bytes follow. */
const spkiHeader = Buffer.from("302a300506032b6570032100", "hex");
const rawBytes = 32;

/** The 32 raw bytes of an Ed25519 public key. Throws TypeError for a key of another type. */
export function rawPublicKey(key: KeyObject): Uint8Array {
  if (key.asymmetricKeyType !== "ed25519") {
    throw new TypeError(`an Ed25519 key is needed, this one is ${key.asymmetricKeyType ?? "a secret"}`);
  }
  return new Uint8Array(publicDer(key).subarray(spkiHeader.length));
}

/** The key of 32 raw bytes. Throws TypeError for any other length. */
export function publicKeyFromRaw(raw: Uint8Array): KeyObject {
  if (raw.length !== rawBytes) {
    throw new TypeError(`an Ed25519 public key has ${rawBytes} bytes, this one has ${raw.length}`);
  }
  return createPublicKey({ key: Buffer.concat([spkiHeader, raw]), format: "der", type: "spki" });
}

/** Id of a key: the first 16 characters of the lower-case hex SHA-256 of its DER SubjectPublicKeyInfo. */
export function keyId(key: KeyObject): string {
  return createHash("sha256").update(publicDer(key)).digest("hex").slice(0, 16);
}

function publicDer(key: KeyObject): Buffer {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return publicKey.export({ format: "der", type: "spki" });
}
