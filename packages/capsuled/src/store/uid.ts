import { createHash, randomBytes } from "node:crypto";

const alphabet = "abcdefghijklmnopqrstuvwxyz234567";

/** A letter for the kind and 12 lower-case base32 characters (60 random bits): short enough for a link's name, 15 characters. */
export function newUid(kind: "w" | "v" | "s" | "d" | "t"): string {
  return uidOf(kind, randomBytes(12));
}

/** The one that always comes of the same text, which somebody else has chosen at random. */
export function uidOfText(kind: "d", text: string): string {
  return uidOf(kind, createHash("sha256").update(text).digest().subarray(0, 12));
}

function uidOf(kind: string, bytes: Uint8Array): string {
  let uid = kind;
  for (const byte of bytes) uid += alphabet.charAt(byte & 31);
  return uid;
}
