import { randomBytes } from "node:crypto";

const alphabet = "abcdefghijklmnopqrstuvwxyz234567";

/** A letter for the kind and 12 lower-case base32 characters (60 random bits): short enough for a link's name, 15 characters. */
export function newUid(kind: "w" | "v" | "s" | "d" | "t"): string {
  let uid: string = kind;
  for (const byte of randomBytes(12)) uid += alphabet.charAt(byte & 31);
  return uid;
}
