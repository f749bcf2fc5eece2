/** Contexts (the capsules that one knows) and the key that one has: files below $XDG_CONFIG_HOME/capsule. */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { CliError, exitCode } from "./errors.ts";
import { lock } from "./lock.ts";

/** A capsule that was adopted, or whose fingerprint was accepted. */
export interface Context {
  /** Host and port. */
  readonly host: string;
  readonly capsuleId: string;
  /** SHA-256 of the server's certificate, lower-case hex. */
  readonly fingerprint: string;
}

export interface Config {
  readonly current: string | undefined;
  readonly contexts: Readonly<Record<string, Context>>;
}

export interface ClientKey {
  readonly privateKey: KeyObject;
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly certificateDer: Uint8Array;
}

export const defaultPort = 50_000;

export function configDir(): string {
  const base = process.env["XDG_CONFIG_HOME"];
  return join(base !== undefined && base !== "" ? base : join(homedir(), ".config"), "capsule");
}

const configPath = (): string => join(configDir(), "config.yaml");
const keyPath = (): string => join(configDir(), "key.pem");
const certificatePath = (): string => join(configDir(), "certificate.pem");

/** Throws CliError for a file that is damaged. */
export async function readConfig(): Promise<Config> {
  const path = configPath();
  if (!existsSync(path)) return { current: undefined, contexts: {} };
  const text = readFileSync(path, "utf8");
  let value: unknown;
  try {
    // It is written as JSON, which is YAML: the parser of YAML is loaded only for a file that a person has changed.
    value = text.startsWith("{") ? JSON.parse(text) : (await import("./yaml.ts")).parse(text);
  } catch (error) {
    throw new CliError(`${path} is damaged: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { current, contexts } = (value ?? {}) as { current?: unknown; contexts?: Record<string, Partial<Context>> };
  const known: Record<string, Context> = {};
  for (const [name, { host, capsuleId, fingerprint }] of Object.entries(contexts ?? {})) {
    if (typeof host !== "string" || typeof capsuleId !== "string" || typeof fingerprint !== "string") {
      throw new CliError(`${path}: context "${name}" lacks host, capsuleId or fingerprint. Adopt it again.`);
    }
    known[name] = { host, capsuleId, fingerprint };
  }
  return { current: typeof current === "string" ? current : undefined, contexts: known };
}

/** Changes the file on the ground of what it says now, one program at a time. Throws CliError. */
export async function updateConfig(change: (config: Config) => Config): Promise<void> {
  makeConfigDir();
  const unlock = await lock(`${configPath()}.lock`);
  try {
    writeSafely(configPath(), `${JSON.stringify(change(await readConfig()), undefined, 2)}\n`);
  } finally {
    unlock();
  }
}

/** The key of this user, undefined before the first adoption. Throws CliError when others could read it. */
export function readKey(): ClientKey | undefined {
  if (!existsSync(keyPath()) || !existsSync(certificatePath())) return undefined;
  if ((statSync(keyPath()).mode & 0o077) !== 0) {
    throw new CliError(
      `${keyPath()} can be read by others. If nobody has: chmod 600 ${keyPath()}. Else remove it, and have a new key enrolled.`,
      exitCode.refused,
    );
  }
  const keyPem = readFileSync(keyPath(), "utf8");
  const certificatePem = readFileSync(certificatePath(), "utf8");
  try {
    const certificate = new X509Certificate(certificatePem);
    return { privateKey: createPrivateKey(keyPem), keyPem, certificatePem, certificateDer: certificate.raw };
  } catch (error) {
    throw new CliError(
      `${keyPath()} or ${certificatePath()} is damaged. Restore them, or remove both for a new key.`,
      1,
      {
        cause: error,
      },
    );
  }
}

/** The key of this user, made when there is none. */
export async function ensureKey(): Promise<ClientKey> {
  const known = readKey();
  if (known !== undefined) return known;
  const { makeClientCertificate } = await import("./certificate.ts");
  const made = await makeClientCertificate();
  writeSafely(keyPath(), made.keyPem);
  writeSafely(certificatePath(), made.certificatePem);
  const key = readKey();
  if (key === undefined) throw new CliError(`the new key could not be read from ${keyPath()}`);
  return key;
}

/** Whole or not at all, and for nobody else's eyes. */
function writeSafely(path: string, text: string): void {
  makeConfigDir();
  const scratch = `${path}.${process.pid}`;
  writeFileSync(scratch, text, { mode: 0o600, flush: true });
  renameSync(scratch, path);
}

function makeConfigDir(): void {
  mkdirSync(configDir(), { recursive: true, mode: 0o700 });
  chmodSync(configDir(), 0o700);
}

/** Host and port of what a person wrote: `box`, `box:50000`, `10.0.0.1`, `[::1]:50000`, `[fe80::1%eth0]`. Throws CliError. */
export function parseHost(text: string): string {
  const match = /^(\[[0-9a-fA-F:.]+(?:%[A-Za-z0-9_.-]+)?\]|[^:[\]/@\s]+)(?::([0-9]{1,5}))?$/.exec(text);
  const port = Number(match?.[2] ?? defaultPort);
  if (match !== null && port >= 1 && port <= 65_535) return `${match[1]}:${port}`;
  throw new CliError(`"${text}" is no host: HOST or HOST:PORT is needed (IPv6 in brackets)`, 2);
}
