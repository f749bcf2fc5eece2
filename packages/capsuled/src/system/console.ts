/**
 * The console of a machine: who it is and how it is reached, told again whenever that changes. A key shows the last lines
 * of its logs. There is no shell and no login.
 */
import { closeSync, constants, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ReadStream } from "node:tty";
import type { Logger } from "pino";

export interface ConsoleFacts {
  readonly name: string;
  readonly shortId: string;
  readonly version: string;
  readonly addresses: readonly string[];
  readonly port: number;
  readonly fingerprint: string;
  /** What the operator should know or do, a line each. */
  readonly notices: readonly string[];
}

const refreshMs = 2_000;
const logLines = 30;

/** Shows `facts` on every console that the kernel writes to, from now on. */
export function startConsole(options: { facts: () => ConsoleFacts; logDir: string; log: Logger }): void {
  const devices = consoleDevices();
  let shown = "";
  const refresh = (): void => {
    const text = bannerOf(options.facts());
    if (text === shown) return;
    shown = text;
    write(devices, text);
  };
  refresh();
  setInterval(refresh, refreshMs).unref();
  for (const device of devices) {
    onKey(device, options.log, () => write([device], `${lastLines(options.logDir)}\n${shown}`));
  }
}

/** Plain text of at most 80 columns, for any terminal. */
export function bannerOf(facts: ConsoleFacts): string {
  const { name, shortId, version, addresses, port, fingerprint, notices } = facts;
  const groups = fingerprint.match(/.{4}/g) ?? [];
  const reached = addresses.map((address) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`));
  const rows: [string, string[]][] = [
    ["Capsule", [`${name}   id ${shortId}   version ${version}`]],
    ["API", reached.length === 0 ? ["no address yet"] : reached],
    ["SHA-256", [groups.slice(0, 8).join(" "), groups.slice(8).join(" ")]],
    ["", notices.map((notice) => notice)],
  ];
  const line = "-".repeat(78);
  const body = rows.flatMap(([title, values]) =>
    values.map((value, i) => `${(i === 0 && title !== "" ? `${title}:` : "").padEnd(10)}${value}`),
  );
  return ["", line, ...body, line, "Any key: the last lines of the log.", ""].join("\n");
}

/** Screen and serial lines, as the kernel names them: "tty0 ttyS0". */
function consoleDevices(): string[] {
  const names = readFileSync("/sys/class/tty/console/active", "utf8").trim().split(/\s+/);
  // tty0 is whatever screen is in front: tty1 is its first, and can be read from.
  return names.filter((name) => name !== "").map((name) => `/dev/${name === "tty0" ? "tty1" : name}`);
}

function write(devices: readonly string[], text: string): void {
  for (const device of devices) {
    try {
      // Not blocking: a paused terminal must not hold capsuled.
      const flags = constants.O_WRONLY | constants.O_NOCTTY | constants.O_NONBLOCK;
      const file = openSync(device, flags);
      try {
        writeFileSync(file, text.replaceAll("\n", "\r\n"));
      } finally {
        closeSync(file);
      }
    } catch {
      // No such terminal, or one that takes nothing now: the next change comes.
    }
  }
}

function onKey(device: string, log: Logger, act: () => void): void {
  try {
    // Not as controlling terminal: Ctrl-C there must not reach capsuled.
    const stream = new ReadStream(openSync(device, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK));
    stream.setRawMode(true);
    stream.on("data", act);
    stream.on("error", (error) => log.debug({ err: error, device }, "the console cannot be read"));
    stream.unref();
  } catch (error) {
    log.debug({ err: error, device }, "the console cannot be read");
  }
}

function lastLines(logDir: string): string {
  const lines = readdirSync(logDir)
    .filter((name) => name.endsWith(".log"))
    .flatMap((name) =>
      readFileSync(join(logDir, name), "utf8")
        .split("\n")
        .filter((line) => line !== "")
        .slice(-logLines)
        .map((line) => line.replace(/^(\S+) /, `$1 ${name.slice(0, -4)}: `)),
    );
  const last = lines.sort().slice(-logLines);
  return ["", ...last.map((line) => line.replace(/[\p{Cc}\p{Cf}]/gu, " ").slice(0, 400))].join("\n");
}
