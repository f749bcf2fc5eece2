/** Secrets by their looks: what may be in any text of a bundle, whoever wrote it. In doubt it is left out. Pure. */

/** Stands for what was left out. A pattern that meets it again leaves it as it is. */
export const mark = "<redacted>";

/** Names of things whose value is a secret. Nothing before them is matched: a pattern must not go back over a long line. */
const secretName =
  "(?:(?:passw(?:or)?d|passphrase|passcode|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key|credential|psk)[\\w.-]{0,40}|pass|pwd|[_-]key)";

const keyEnd = "-----END [A-Z ]{0,40}PRIVATE KEY-----";
/** Longer than any key, with something before each of its lines. One without an end takes no more with it. */
const keyLength = "{0,16000}";
const privateKeys = new RegExp(
  `-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[\\s\\S]${keyLength}?${keyEnd}|[\\s\\S]${keyLength})`,
  "g",
);
/** The rest of one whose beginning was cut off. */
const endOfPrivateKey = new RegExp(`^[\\s\\S]${keyLength}?${keyEnd}`);
const tokens = [
  // JSON Web Tokens: a header and a body that begin with `{"`.
  /\beyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?/g,
  // Forms of well-known issuers.
  /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b/g,
  /\bgh[pousr]_\w{30,}/g,
  /\bgithub_pat_\w{30,}/g,
  /\bglpat-[\w-]{16,}/g,
  /\bxox[abeprs]-[\w-]{10,}/g,
  /\bsk[-_][\w-]{20,}/g,
  /\bAGE-SECRET-KEY-1[0-9A-Z]{20,}/gi,
];
const authorization = /\b(bearer|basic)\s{1,4}[\w.~+/=-]{6,}/gi;
const userOfUrl = /:\/\/[^\s/@"'<>]{1,400}@/g;
/** Also as it is within a JSON text, and without its end. */
const quotedValue = `"(?:[^"\\\\\\n]|\\\\.)*"?|\\\\"[^"\\n]*?\\\\"|'[^'\\n]*'?`;
const option = new RegExp(
  `(--[\\w-]{0,40}?${secretName})([ =]{1,4}|\\\\?["'],\\s{0,20})(${quotedValue}|[^\\s"'\\]]+)`,
  "gi",
);
const assignment = new RegExp(`(${secretName})((?:\\\\?["'])?\\s{0,4}[=:]\\s{0,4})(${quotedValue}|[^\\s"'&]+)`, "gi");
/** Nothing, or the beginning of a list in JSON. */
const noValue = /^(?:\\?"\\?"|''|[[{][[\]{},]*|(?:true|false|null|undefined)[,;.})\]]*)$/;
const isSecretName = new RegExp(secretName, "i");
const isSecretOption = new RegExp(`^--?[\\w-]{0,40}?${secretName}$`, "i");

/** Whether what bears this name is likely a secret. */
export function isNameOfSecret(name: string): boolean {
  return isSecretName.test(name);
}

/** The text with a mark in the place of all that looks like a secret. */
export function withoutLooksOfSecrets(text: string): string {
  let clean = text.replace(privateKeys, mark).replace(endOfPrivateKey, mark);
  for (const token of tokens) clean = clean.replace(token, mark);
  return clean
    .replace(authorization, `$1 ${mark}`)
    .replace(userOfUrl, `://${mark}@`)
    .replace(option, marked)
    .replace(assignment, marked);
}

function marked(_: string, name: string, between: string, value: string): string {
  return `${name}${between}${markFor(between, value)}`;
}

/** JSON stays JSON. */
function markFor(between: string, value: string): string {
  if (noValue.test(value)) return value;
  const quote = /^\\?["']/.exec(value)?.[0] ?? /^\\?"(?=\s*:)/.exec(between)?.[0] ?? "";
  return `${quote}${mark}${quote}`;
}

/** Arguments of a command, with a mark in the place of those that look like secrets: also `--password` and then the value. */
export function argumentsWithoutSecrets(args: readonly string[]): string[] {
  return args.map((arg, i) =>
    arg !== "" && isSecretOption.test(args[i - 1] ?? "") ? mark : withoutLooksOfSecrets(arg),
  );
}
