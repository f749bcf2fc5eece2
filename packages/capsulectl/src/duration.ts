import { CliError, exitCode } from "./errors.ts";

/** What protobuf's Duration holds. */
const maxMs = 315_576_000_000_000;
/** What a timer of Node holds: beyond it fires at once. */
const maxTimerMs = 2 ** 31 - 1;
export const defaultWaitMs = 5 * 60_000;

const units: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds of "10s", "1m30s", "250ms", "2d"; plain digits are seconds. Undefined when it is none. */
export function parseDuration(text: string): number | undefined {
  if (/^[0-9]+$/.test(text)) return parseDuration(`${text}s`);
  if (!/^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$/.test(text)) return undefined;
  let ms = 0;
  for (const [, number, , unit] of text.matchAll(/([0-9]+(\.[0-9]+)?)(ms|s|m|h|d)/g))
    ms += Number(number) * (units[unit ?? ""] ?? 0);
  return ms <= maxMs ? ms : undefined;
}

/** As parseDuration, for an option. Throws CliError. */
export function durationOption(text: string): number {
  const ms = parseDuration(text);
  if (ms !== undefined) return ms;
  throw new CliError(`"${text}" is no duration, such as 30s, 1m30s or 2h`, exitCode.usage);
}

/** The value of `--wait [duration]` in milliseconds; undefined when it was not given. Throws CliError. */
export function waitOption(given: string | true | undefined): number | undefined {
  if (given === undefined) return undefined;
  return given === true ? defaultWaitMs : timerOption("--wait", given);
}

/** The value of an option that a timer is set to, in milliseconds. Throws CliError. */
export function timerOption(name: string, given: string): number {
  const ms = durationOption(given);
  if (ms <= maxTimerMs) return ms;
  throw new CliError(`${name}=${given}: at most 24d is possible`, exitCode.usage);
}
