/**
 * The token of a call: a JWT (RFC 7519) signed by EdDSA with the caller's key, for one capsule, bound to the client
 * certificate of the connection (RFC 8705, `cnf` with `x5t#S256`), good for one call within a minute.
 */
import { createHash, type KeyObject, randomBytes, sign } from "node:crypto";

/** Longest life of a token, in seconds. */
export const tokenLifetimeS = 60;

/** Who calls whom, over which connection. */
export interface TokenSubject {
  /** Ed25519 private key of the certificate. */
  readonly privateKey: KeyObject;
  /** `keyId` of that key. */
  readonly keyId: string;
  /** `thumbprint` of the client certificate. */
  readonly thumbprint: string;
  readonly capsuleId: string;
}

/** SHA-256 of a DER certificate, base64url without padding, as `x5t#S256` has it. */
export function thumbprint(certificateDer: Uint8Array): string {
  return createHash("sha256").update(certificateDer).digest("base64url");
}

/**
 * Signs a token for one call. It is sent as `authorization: Bearer TOKEN`. By Node's own crypto: a library brings WebCrypto
 * with it, which takes longer to load than everything else of this file to run.
 */
export function signToken(subject: TokenSubject, now: Date): string {
  const issuedAt = Math.floor(now.getTime() / 1000);
  const claims = {
    cnf: { "x5t#S256": subject.thumbprint },
    sub: subject.keyId,
    aud: subject.capsuleId,
    jti: randomBytes(16).toString("base64url"),
    iat: issuedAt,
    exp: issuedAt + tokenLifetimeS,
  };
  const signed = `${encoded({ alg: "EdDSA", typ: "JWT" })}.${encoded(claims)}`;
  return `${signed}.${sign(null, Buffer.from(signed), subject.privateKey).toString("base64url")}`;
}

function encoded(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}
