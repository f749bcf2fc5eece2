/**
 * Who gets in: the one place that decides. Pure; the signature of the token has been checked by then, and what it claims
 * comes in as data.
 */
import { Access, Role } from "@capsule/api";

/** Clocks of client and capsule may differ by this much, in seconds. */
export const leewayS = 5;
/** Longest life of a token that is taken, in seconds. */
export const maxLifetimeS = 60;

export interface Facts {
  readonly access: Access;
  /** Id and thumbprint of the client certificate's Ed25519 key; undefined without such a certificate. */
  readonly certificate: { readonly keyId: string; readonly thumbprint: string } | undefined;
  /** Claims of a token whose signature is that of the certificate's key; else why there is none. */
  readonly token: Claims | "missing" | "malformed" | "wrongSignature";
  /** Role of the certificate's key; undefined when it is not enrolled. */
  readonly role: Role | undefined;
  readonly anyKeys: boolean;
  readonly claimWindowOpen: boolean;
  readonly capsuleId: string;
  /** Tokens issued before this are from before the boot, whose uses are forgotten. Seconds since 1970. */
  readonly bootS: number;
  readonly nowS: number;
}

export interface Claims {
  readonly audience: string;
  readonly subject: string;
  readonly id: string;
  readonly issuedAtS: number;
  readonly expiresAtS: number;
  readonly thumbprint: string;
}

export type Refusal =
  | "NOT_IN_TABLE"
  | "NO_CERTIFICATE"
  | "UNKNOWN_KEY"
  | "NO_TOKEN"
  | "BAD_TOKEN"
  | "WRONG_AUDIENCE"
  | "WRONG_CERTIFICATE"
  | "TOKEN_EXPIRED"
  | "TOKEN_NOT_YET_VALID"
  | "TOKEN_BEFORE_BOOT"
  | "ROLE_TOO_LOW"
  | "ALREADY_ADOPTED"
  | "CLAIM_WINDOW_CLOSED";

const needed: Record<Access, Role | undefined> = {
  [Access.UNSPECIFIED]: undefined,
  [Access.OPEN]: undefined,
  [Access.CLAIM]: undefined,
  [Access.VIEWER]: Role.VIEWER,
  [Access.OPERATOR]: Role.OPERATOR,
  [Access.ADMIN]: Role.ADMIN,
};

/** Undefined: the call passes, if its token was not used before. */
export function decide(facts: Facts): Refusal | undefined {
  if (facts.access === Access.OPEN) return undefined;
  if (facts.access === Access.UNSPECIFIED) return "NOT_IN_TABLE";
  if (facts.certificate === undefined) return "NO_CERTIFICATE";
  if (facts.access === Access.CLAIM) {
    if (facts.anyKeys) return "ALREADY_ADOPTED";
    if (!facts.claimWindowOpen) return "CLAIM_WINDOW_CLOSED";
  } else if (facts.role === undefined) return "UNKNOWN_KEY";
  const badToken = checkToken(facts, facts.certificate);
  if (badToken !== undefined) return badToken;
  const role = needed[facts.access];
  if (facts.access === Access.CLAIM) return undefined;
  // Roles are ordered by their numbers: a higher one may do all that a lower one may.
  return role !== undefined && facts.role !== undefined && facts.role >= role ? undefined : "ROLE_TOO_LOW";
}

function checkToken(facts: Facts, certificate: NonNullable<Facts["certificate"]>): Refusal | undefined {
  const { token, nowS } = facts;
  if (token === "missing") return "NO_TOKEN";
  if (token === "malformed" || token === "wrongSignature") return "BAD_TOKEN";
  if (token.audience !== facts.capsuleId) return "WRONG_AUDIENCE";
  if (token.subject !== certificate.keyId || token.thumbprint !== certificate.thumbprint) return "WRONG_CERTIFICATE";
  const life = token.expiresAtS - token.issuedAtS;
  if (life <= 0 || life > maxLifetimeS || !/^[A-Za-z0-9_-]{1,64}$/.test(token.id)) return "BAD_TOKEN";
  if (token.expiresAtS + leewayS <= nowS) return "TOKEN_EXPIRED";
  if (token.issuedAtS - leewayS > nowS) return "TOKEN_NOT_YET_VALID";
  if (token.issuedAtS < facts.bootS) return "TOKEN_BEFORE_BOOT";
  return undefined;
}
