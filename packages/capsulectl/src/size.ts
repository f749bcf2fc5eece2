import { CliError, exitCode } from "./errors.ts";

/** Bytes of "512", "2GiB", "1.5 GB", "10M": K, M, G, T are binary, with or without "iB" or "B". */
export function parseSize(text: string): bigint | undefined {
  const match = /^([0-9]+)(?:\.([0-9]{1,6}))?\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  if (match === null) return undefined;
  const [, whole = "0", fraction = "", unit = ""] = match;
  const factor = 1024n ** BigInt(" KMGT".indexOf(unit === "" ? " " : unit.toUpperCase()));
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(whole + fraction) * factor;
  return scaled % scale === 0n || unit !== "" ? scaled / scale : undefined;
}

/** As parseSize, for an option or argument. Throws CliError. */
export function sizeOption(text: string): bigint {
  const size = parseSize(text);
  if (size !== undefined && size < 2n ** 64n) return size;
  throw new CliError(`"${text}" is no size, such as 512MiB or 2GiB`, exitCode.usage);
}

/** A whole number of an option; 0 when it was not given. Throws CliError. */
export function numberOption(option: string, text: string | undefined): number {
  if (text === undefined) return 0;
  if (/^[0-9]{1,9}$/.test(text)) return Number(text);
  throw new CliError(`${option} ${text}: a whole number is needed`, exitCode.usage);
}
