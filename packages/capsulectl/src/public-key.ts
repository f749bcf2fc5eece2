/** A public key as people hand it on: one word that no shell and no parser of options takes for something else. */
import { CliError, exitCode } from "./errors.ts";

const prefix = "ed25519:";
/** base64url of 32 bytes. It may begin with "-", which is why it has a prefix. */
const form = /^ed25519:([A-Za-z0-9_-]{43})$/;

export function formatPublicKey(raw: Uint8Array): string {
  return prefix + Buffer.from(raw).toString("base64url");
}

/** The 32 bytes of it. Throws CliError (usage). */
export function parsePublicKey(text: string): Uint8Array<ArrayBuffer> {
  const encoded = form.exec(text.trim())?.[1];
  if (encoded !== undefined) return new Uint8Array(Buffer.from(encoded, "base64url"));
  throw new CliError(
    `A public key is "${prefix}" and 43 characters, as \`capsulectl key show\` prints it on its owner's machine.`,
    exitCode.usage,
  );
}
