import { CliError, exitCode } from "./errors.ts";

const units: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of "10s", "1m30s", "250ms", "2d"; plain digits are seconds. Undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  if (/^[0-9]+$/.test(text)) return Number(text) * 1_000;
  if (!/^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$/.test(text)) return undefined;
  let ms = 0;
  for (const [, number, , unit] of text.matchAll(/([0-9]+(\.[0-9]+)?)(ms|s|m|h|d)/g))
    ms += Number(number) * (units[unit ?? ""] ?? 0);
  return ms;
}

/** As parseDuration, for an option. Throws CliError. */
export function durationOption(text: string): number {
  const ms = parseDuration(text);
  if (ms !== undefined) return ms;
  throw new CliError(`"${text}" is no duration, such as 30s, 1m30s or 2h`, exitCode.usage);
}
