/**
 * The console of a machine: who it is and how it is reached, told again whenever that changes. A key shows the last lines
 * of its logs. There is no shell and no login.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import { Terminal } from "./terminal.ts";

export interface ConsoleFacts {
  /** What the machine is; "Capsule" unless told. */
  readonly title?: string;
  readonly name: string;
  readonly shortId: string;
  readonly version: string;
  readonly addresses: readonly string[];
  readonly port: number;
  readonly fingerprint: string;
  /** What the operator should know or do, and what the machine's document wants shown, a line each. */
  readonly notices: readonly string[];
  /** A key shows the last lines of the logs. */
  readonly showLogs: boolean;
}

const refreshMs = 2_000;
const logLines = 30;

/** Shows `facts` on every console that the kernel writes to, from now on. */
export function startConsole(options: { facts: () => ConsoleFacts; logDir: string; log: Logger }): void {
  const terminals = consoleDevices().map((device) => new Terminal(device, options.log));
  let shown = "";
  const refresh = (): void => {
    const text = bannerOf(options.facts());
    if (text === shown) return;
    shown = text;
    for (const terminal of terminals) terminal.write(text);
  };
  refresh();
  setInterval(refresh, refreshMs).unref();
  for (const terminal of terminals)
    terminal.onKey(() => {
      if (options.facts().showLogs) terminal.write(`${lastLines(options.logDir)}\n${shown}`);
    });
}

/** Plain text of at most 80 columns, for any terminal. */
export function bannerOf(facts: ConsoleFacts): string {
  const { title = "Capsule", name, shortId, version, addresses, port, fingerprint, notices, showLogs } = facts;
  const groups = fingerprint.match(/.{4}/g) ?? [];
  const reached = addresses.map((address) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`));
  const rows: [string, string[]][] = [
    [title, [`${name}   id ${shortId}   version ${version}`]],
    ["API", reached.length === 0 ? ["no address yet"] : reached],
    ["SHA-256", [groups.slice(0, 8).join(" "), groups.slice(8).join(" ")]],
    ["", notices.map((notice) => notice)],
  ];
  const line = "-".repeat(78);
  const body = rows.flatMap(([what, values]) =>
    values.map((value, i) => `${(i === 0 && what !== "" ? `${what}:` : "").padEnd(11)}${value}`),
  );
  return ["", line, ...body, line, ...(showLogs ? ["Any key: the last lines of the log."] : []), ""].join("\n");
}

/** Screen and serial lines, as the kernel names them: "tty0 ttyS0". */
function consoleDevices(): string[] {
  const names = readFileSync("/sys/class/tty/console/active", "utf8").trim().split(/\s+/);
  // tty0 is whatever screen is in front: tty1 is its first, and can be read from.
  return names.filter((name) => name !== "").map((name) => `/dev/${name === "tty0" ? "tty1" : name}`);
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
