/** Callers for tests: an Ed25519 key with its certificate, and tokens that may be wrong in one chosen way. */
import "reflect-metadata";
import { KeyObject, randomBytes, webcrypto } from "node:crypto";
import { keyId } from "@capsule/api/key.ts";
import { thumbprint } from "@capsule/api/token.ts";
import * as x509 from "@peculiar/x509";
import { SignJWT } from "jose";

export interface Client {
  readonly privateKey: KeyObject;
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly keyId: string;
  readonly thumbprint: string;
}

export async function clientOf(): Promise<Client> {
  const algorithm = { name: "Ed25519" };
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: "CN=test",
    notBefore: new Date("2020-01-01T00:00:00Z"),
    notAfter: new Date("2120-01-01T00:00:00Z"),
    signingAlgorithm: algorithm,
    keys,
  });
  const privateKey = KeyObject.from(keys.privateKey);
  return {
    privateKey,
    keyPem: privateKey.export({ format: "pem", type: "pkcs8" }) as string,
    certificatePem: certificate.toString("pem"),
    keyId: keyId(privateKey),
    thumbprint: thumbprint(new Uint8Array(certificate.rawData)),
  };
}

/** What is wrong with a token; nothing by default. */
export interface Tweak {
  readonly privateKey?: KeyObject;
  readonly subject?: string;
  readonly thumbprint?: string;
  readonly id?: string;
  /** Shift of the time of issue, in seconds. */
  readonly offsetS?: number;
  readonly lifetimeS?: number;
}

export async function tokenOf(client: Client, capsuleId: string, tweak: Tweak = {}): Promise<string> {
  const issuedAt = Math.floor(Date.now() / 1000) + (tweak.offsetS ?? 0);
  return await new SignJWT({ cnf: { "x5t#S256": tweak.thumbprint ?? client.thumbprint } })
    .setProtectedHeader({ alg: "EdDSA", typ: "JWT" })
    .setSubject(tweak.subject ?? client.keyId)
    .setAudience(capsuleId)
    .setJti(tweak.id ?? randomBytes(16).toString("base64url"))
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + (tweak.lifetimeS ?? 60))
    .sign(tweak.privateKey ?? client.privateKey);
}
