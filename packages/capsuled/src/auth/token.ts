import { type KeyObject, verify } from "node:crypto";
import type { Claims, Facts } from "./decide.ts";

/** Longer ones are no tokens of ours. */
const maxLength = 4_096;

/**
 * The claims of an `authorization` header's JWT when it is signed by EdDSA with this key (RFC 7515, compact form; RFC
 * 8037). Verified by Node's own crypto, synchronously: a thread hop per call would cost more than the signature.
 */
export function readToken(header: string | null, key: KeyObject): Facts["token"] {
  if (header === null || header === "") return "missing";
  const match = /^Bearer ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/.exec(header);
  if (match === null || header.length > maxLength) return "malformed";
  const [, protectedHeader = "", payload = "", signature = ""] = match;
  const { alg, crit } = decode(protectedHeader);
  // One algorithm, so that none can be talked down; and no extension that must be understood.
  if (alg !== "EdDSA" || crit !== undefined) return "malformed";
  const signed = Buffer.from(`${protectedHeader}.${payload}`, "latin1");
  if (!verify(null, signed, key, Buffer.from(signature, "base64url"))) return "wrongSignature";
  return claimsOf(decode(payload));
}

function claimsOf({ aud, sub, jti, iat, exp, cnf }: Record<string, unknown>): Claims | "malformed" {
  const thumbprint = (cnf as Record<string, unknown> | null | undefined)?.["x5t#S256"];
  const times = [iat, exp].every((time) => Number.isSafeInteger(time));
  const texts = [aud, sub, jti, thumbprint].every((text) => typeof text === "string");
  if (!times || !texts) return "malformed";
  return {
    audience: aud as string,
    subject: sub as string,
    id: jti as string,
    issuedAtS: iat as number,
    expiresAtS: exp as number,
    thumbprint: thumbprint as string,
  };
}

function decode(part: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, "base64url").toString("utf8"));
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
