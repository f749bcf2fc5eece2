/** Who this capsule is: an id for the life of the installation, and the TLS key by whose fingerprint clients pin it. */
import { createHash, createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeDurably } from "../durable.ts";
import { CapsuleError } from "../errors.ts";
import { makeCertificate } from "../self-signed.ts";
import type { Store } from "../store/store.ts";

export interface ServerIdentity {
  /** 26 characters of lower-case base32 of 128 random bits. */
  readonly capsuleId: string;
  readonly keyPem: string;
  readonly certificatePem: string;
  /** SHA-256 of the DER certificate, lower-case hex. */
  readonly fingerprint: string;
}

const base32 = "abcdefghijklmnopqrstuvwxyz234567";
const idKey = "capsule-id";
/** Set once a certificate was made: then a missing one is a loss, not a beginning. */
const fingerprintKey = "tls-fingerprint";

/**
 * The identity in the store and in `dir` (server.key, server.crt), made when there is none. Throws `internal` when the
 * files are there and damaged: a new key would look to every client like an attack.
 */
export async function loadIdentity(store: Store, dir: string): Promise<ServerIdentity> {
  let capsuleId = store.meta.get(idKey);
  if (capsuleId === undefined) {
    capsuleId = newId();
    store.meta.set(idKey, capsuleId);
  }
  const [keyPath, certificatePath] = [join(dir, "server.key"), join(dir, "server.crt")];
  const [keyPem, certificatePem] = await Promise.all([readIfThere(keyPath), readIfThere(certificatePath)]);
  if (certificatePem === "" && store.meta.get(fingerprintKey) !== undefined) throw damaged(dir);
  if (certificatePem === "") {
    // The certificate is written last: without it the key was never shown to anyone.
    const made = await makeCertificate(`capsule-${shortId(capsuleId)}`, [
      { type: "dns", value: `${capsuleId}.capsule.internal` },
    ]);
    await writeDurably(keyPath, made.keyPem, 0o600);
    await writeDurably(certificatePath, made.certificatePem, 0o600);
    const fingerprint = fingerprintOf(made.certificatePem);
    store.meta.set(fingerprintKey, fingerprint);
    return { capsuleId, ...made, fingerprint };
  }
  try {
    const certificate = new X509Certificate(certificatePem);
    if (!certificate.checkPrivateKey(createPrivateKey(keyPem))) throw new Error("key and certificate are no pair");
  } catch (error) {
    throw damaged(dir, error);
  }
  return { capsuleId, keyPem, certificatePem, fingerprint: fingerprintOf(certificatePem) };
}

/** First six characters of the id, as shown on the console. */
export function shortId(capsuleId: string): string {
  return capsuleId.slice(0, 6);
}

function damaged(dir: string, cause?: unknown): CapsuleError {
  const message = `The TLS identity in ${dir} is damaged or missing. Restore server.key and server.crt from a backup: with new ones every client would refuse this capsule.`;
  return new CapsuleError("internal", message, { cause });
}

function newId(): string {
  // 26 digits of 5 bits are 130: the last one holds the 3 that are left.
  let bits = BigInt(`0x${randomBytes(16).toString("hex")}`);
  let id = "";
  for (let i = 0; i < 26; i++) {
    id += base32.charAt(Number(bits & 31n));
    bits >>= 5n;
  }
  return id;
}

async function readIfThere(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
}

function fingerprintOf(certificatePem: string): string {
  return createHash("sha256").update(new X509Certificate(certificatePem).raw).digest("hex");
}
