/** The machine as it presents itself: name, version, mode. */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { hostname, networkInterfaces } from "node:os";
import { promisify } from "node:util";
import { writeDurably } from "../durable.ts";
import { CapsuleError } from "../errors.ts";

const run = promisify(execFile);
const HOSTNAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
export const hostnamePath = "/perm/capsule/hostname";

export interface Machine {
  readonly version: { readonly version: string; readonly commit: string; readonly epoch: number };
  /** "namespace", "qemu", "machine" or "installer". */
  readonly mode: string;
  hostname(): string;
  /** Durable, and at once. Throws `invalid`. */
  setHostname(name: string): Promise<void>;
}

export function openMachine(): Machine {
  return {
    version: readVersion(),
    mode: modeOf(),
    hostname,
    setHostname: async (name) => {
      checkedHostname(name);
      await writeDurably(hostnamePath, `${name}\n`, 0o644);
      await run("hostname", [name]);
    },
  };
}

/** What is wrong with a host name. */
export function hostnameFault(name: string): string | undefined {
  if (HOSTNAME.test(name)) return undefined;
  return `"${name.slice(0, 80)}" is no host name: 1 to 63 of a-z, 0-9 and "-", no "-" at the ends`;
}

/** Throws `invalid`. */
export function checkedHostname(name: string): void {
  const description = hostnameFault(name);
  if (description !== undefined)
    throw new CapsuleError("invalid", description, { violations: [{ path: "hostname", description }] });
}

function modeOf(): string {
  if (process.env["container"] === "capsule-namespace") return "namespace";
  return vendor().startsWith("QEMU") ? "qemu" : "machine";
}

/** As the firmware tells it (DMI); empty where there is none. */
function vendor(): string {
  try {
    return readFileSync("/sys/class/dmi/id/sys_vendor", "utf8");
  } catch {
    return "";
  }
}

/**
 * Sets the name: that of the machine's document if it is not empty, else the one on /perm, else one from the first network
 * card's address, which is the same at each boot.
 */
export async function applyHostname(ofDocument: string): Promise<void> {
  const stored = (await readFile(hostnamePath, "utf8").catch(() => "")).trim();
  const name = [ofDocument, stored].find((one) => HOSTNAME.test(one)) ?? nameFromCard();
  if (name !== undefined && name !== hostname()) await run("hostname", [name]);
}

function nameFromCard(): string | undefined {
  for (const addresses of Object.values(networkInterfaces())) {
    const card = addresses?.find(({ internal }) => !internal);
    if (card !== undefined) return `capsule-${card.mac.replaceAll(":", "").slice(6)}`;
  }
  return undefined;
}

function readVersion(): Machine["version"] {
  try {
    return JSON.parse(readFileSync("/usr/lib/capsule/version.json", "utf8")) as Machine["version"];
  } catch {
    return { version: "0.0.0", commit: "unknown", epoch: 0 };
  }
}
