/** Lets calls in or refuses them: gathers the facts, has `decide` decide, and remembers the token. */
import { createPublicKey, type KeyObject } from "node:crypto";
import { Access, type Role } from "@capsule/api";
import { keyId } from "@capsule/api/key.ts";
import { thumbprint } from "@capsule/api/token.ts";
import { CapsuleError, type ErrorKind } from "../errors.ts";
import type { KeyRecord } from "../store/keys.ts";
import type { Store } from "../store/store.ts";
import { type Boot, bootTimeS, claimSecondsLeft, uptimeS } from "./boot.ts";
import { decide, type Refusal } from "./decide.ts";
import type { ReplayCache } from "./replay.ts";
import { readToken } from "./token.ts";

/** The client certificate of a connection. */
export interface PeerCertificate {
  readonly key: KeyObject;
  readonly keyId: string;
  readonly thumbprint: string;
}

export interface Caller {
  readonly certificate: PeerCertificate | undefined;
  /** Undefined for calls that need none. */
  readonly key: KeyRecord | undefined;
}

/** `last used` of a key is written at most this often, in milliseconds. */
const touchMs = 60_000;

export class Gate {
  readonly #store: Store;
  readonly #capsuleId: string;
  readonly #boot: Boot;
  readonly #replay: ReplayCache;
  readonly #now: () => Date;
  readonly #uptimeS: () => number;
  /** All enrolled keys by id; read again when they change. */
  #keys = new Map<string, KeyRecord>();
  readonly #ends = new Map<string, AbortController>();

  constructor(options: {
    readonly store: Store;
    readonly capsuleId: string;
    readonly boot: Boot;
    readonly replay: ReplayCache;
    readonly now?: () => Date;
    readonly uptimeS?: () => number;
  }) {
    this.#store = options.store;
    this.#capsuleId = options.capsuleId;
    this.#boot = options.boot;
    this.#replay = options.replay;
    this.#now = options.now ?? (() => new Date());
    this.#uptimeS = options.uptimeS ?? uptimeS;
    this.#readKeys();
    options.store.changes.subscribe((change) => {
      if (change.kind === "keys") this.#readKeys();
    });
  }

  /** Throws `unauthenticated` or `denied`, with the reason as its word for programs. */
  admit(access: Access, certificate: PeerCertificate | undefined, authorization: string | null): Caller {
    const now = this.#now();
    const key = certificate === undefined ? undefined : this.#keys.get(certificate.keyId);
    const token = certificate === undefined ? "missing" : readToken(authorization, certificate.key);
    const uptime = this.#uptimeS();
    const refusal = decide({
      access,
      certificate,
      token,
      role: key?.role,
      anyKeys: this.#keys.size > 0,
      claimWindowOpen: claimSecondsLeft(this.#boot, uptime) > 0,
      capsuleId: this.#capsuleId,
      bootS: bootTimeS(this.#boot, now, uptime),
      nowS: now.getTime() / 1000,
    });
    if (refusal !== undefined) throw refused(refusal, now, key?.role);
    if (typeof token === "object" && isChecked(access)) this.#useOnce(`${token.subject}.${token.id}`, now);
    if (key !== undefined) this.#touch(key, now);
    return { certificate, key };
  }

  /** The enrolled key of a connection; undefined for a stranger. */
  keyOf(certificate: PeerCertificate | undefined): KeyRecord | undefined {
    return certificate === undefined ? undefined : this.#keys.get(certificate.keyId);
  }

  /** Aborts when the key is removed: calls that last end then. */
  untilRemoved(key: KeyRecord): AbortSignal {
    let end = this.#ends.get(key.id);
    if (end === undefined) {
      end = new AbortController();
      this.#ends.set(key.id, end);
    }
    return end.signal;
  }

  /** Seconds that a first key may still be enrolled; 0 when it may not. */
  claimSecondsLeft(): number {
    return this.#keys.size > 0 ? 0 : claimSecondsLeft(this.#boot);
  }

  #useOnce(id: string, now: Date): void {
    switch (this.#replay.use(id, now)) {
      case "new":
        return;
      case "used":
        throw new CapsuleError("unauthenticated", "The token was used before: each serves one call.", {
          reason: "TOKEN_REPLAYED",
        });
      case "full":
        throw new CapsuleError("exhausted", "Too many calls within a minute. Try again in a moment.", {
          reason: "TOO_MANY_CALLS",
        });
    }
  }

  #touch(key: KeyRecord, now: Date): void {
    if (key.lastUsedAt !== undefined && now.getTime() - key.lastUsedAt.getTime() < touchMs) return;
    this.#keys.set(key.id, { ...key, lastUsedAt: now });
    this.#store.keys.touch(key.id, now);
  }

  #readKeys(): void {
    this.#keys = new Map(this.#store.keys.list().map((key) => [key.id, key]));
    for (const [id, end] of this.#ends) {
      if (this.#keys.has(id)) continue;
      this.#ends.delete(id);
      end.abort(new CapsuleError("unauthenticated", "Your key was removed.", { reason: "UNKNOWN_KEY" }));
    }
  }
}

/** The certificate's facts; undefined when its key is not Ed25519, which nobody can have enrolled. */
export function peerCertificateOf(der: Uint8Array, spkiDer: Uint8Array): PeerCertificate | undefined {
  const key = createPublicKey({ key: Buffer.from(spkiDer), format: "der", type: "spki" });
  if (key.asymmetricKeyType !== "ed25519") return undefined;
  return { key, keyId: keyId(key), thumbprint: thumbprint(der) };
}

/** An open call may carry anything in its header; it is not looked at. */
function isChecked(access: Access): boolean {
  return access !== Access.OPEN;
}

const texts: Record<Refusal, readonly [ErrorKind, string]> = {
  NOT_IN_TABLE: ["denied", "This method is not open to anybody."],
  NO_CERTIFICATE: [
    "unauthenticated",
    "A client certificate with an Ed25519 key is needed: `capsulectl adopt` makes one.",
  ],
  UNKNOWN_KEY: [
    "denied",
    "Your key is not enrolled on this capsule. Ask its administrator to run `capsulectl key add`.",
  ],
  NO_TOKEN: ["unauthenticated", "A token is needed beside the certificate (authorization: Bearer …)."],
  BAD_TOKEN: ["unauthenticated", "The token is malformed or not signed by the certificate's key."],
  WRONG_AUDIENCE: ["unauthenticated", "The token is for another capsule."],
  WRONG_CERTIFICATE: ["unauthenticated", "The token belongs to another certificate."],
  TOKEN_EXPIRED: ["unauthenticated", "The token has expired: is your clock right?"],
  TOKEN_NOT_YET_VALID: ["unauthenticated", "The token is from the future: is your clock right?"],
  TOKEN_BEFORE_BOOT: ["unauthenticated", "The token is from before the capsule's boot. Try again."],
  ROLE_TOO_LOW: ["denied", "The role of your key does not allow this."],
  ALREADY_ADOPTED: ["precondition", "This capsule is adopted already. Ask its administrator to add your key."],
  CLAIM_WINDOW_CLOSED: ["denied", "The claim window has closed: restart the capsule and adopt it within 30 minutes."],
};

function refused(refusal: Refusal, now: Date, role: Role | undefined): CapsuleError {
  const [kind, text] = texts[refusal];
  // A client whose clock is wrong can tell by this.
  const metadata: Record<string, string> = { time: now.toISOString() };
  if (role !== undefined) metadata["role"] = String(role);
  return new CapsuleError(kind, text, { reason: refusal, metadata });
}
