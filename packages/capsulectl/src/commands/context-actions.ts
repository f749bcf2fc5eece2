import { lookup } from "node:dns/promises";
import { hostname, userInfo } from "node:os";
import { createInterface } from "node:readline/promises";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { IdentityService, Role } from "@capsule/api";
import { isShortId } from "@capsule/api/mdns/service.ts";
import { ensureKey, parseHost, readConfig, updateConfig } from "../config.ts";
import { connect } from "../connection.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { note, printTable, say, span } from "../output.ts";
import { toCliError } from "../rpc-errors.ts";
import { followTime } from "../session.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/;

/** Throws CliError. */
export function checkContextName(name: string | undefined): void {
  if (name === undefined || NAME.test(name)) return;
  throw new CliError(`"${name}" is no name for a context: letters, digits, - and _ are needed`, exitCode.usage);
}

export async function adopt(
  where: string,
  options: { name?: string; fingerprint?: string; yes?: boolean; keyName?: string },
): Promise<void> {
  const host = await locate(where);
  const wanted = options.fingerprint === undefined ? undefined : plainFingerprint(options.fingerprint);
  checkContextName(options.name);
  const key = await ensureKey();
  const connection = await connect({ host, key, fingerprint: wanted });
  try {
    const identity = connection.client(IdentityService);
    const identified = await identity.getIdentity({});
    const { capsuleId, shortId, hostname: capsuleName, adopted, claimWindow, time, mode } = identified;
    if (mode === "installer")
      throw new CliError(
        `${shortId} at ${host} is no capsule yet: the machine was started as an installer. \`capsulectl install ${shortId}\` puts Capsule on its disk, adopted.`,
      );
    const config = await readConfig();
    const known = Object.entries(config.contexts).find(([, context]) => context.capsuleId === capsuleId);
    const pinned = known?.[1].fingerprint === connection.fingerprint;
    if (wanted === undefined && options.yes !== true && !pinned) {
      await askToTrust(host, capsuleName, shortId, connection.fingerprint);
    }
    followTime(time);
    connection.authenticate(capsuleId);
    if (!adopted) {
      if (claimWindow === undefined) {
        throw new CliError(
          "Its claim window has closed: restart the capsule, and adopt it within 30 minutes.",
          exitCode.refused,
        );
      }
      await identity.claim({ name: options.keyName ?? `${userInfo().username}@${hostname()}` });
      note(`Your key is enrolled as its first, with the role admin (${span(durationMs(claimWindow))} were left).`);
    } else {
      const me = await identity.whoAmI({});
      note(`Your key is enrolled as "${me.key?.name}" with the role ${(Role[me.key?.role ?? 0] ?? "").toLowerCase()}.`);
    }
    let name = "";
    await updateConfig(({ contexts }) => {
      name = options.name ?? known?.[0] ?? freeName(capsuleName, Object.keys(contexts));
      const context = { host, capsuleId, fingerprint: connection.fingerprint };
      return { current: name, contexts: { ...contexts, [name]: context } };
    });
    say(`Adopted ${shortId} at ${host} as "${name}", which is the current context now.`);
  } catch (error) {
    throw toCliError(error, host);
  } finally {
    connection.close();
  }
}

/** HOST:PORT of a host, or of the capsule with that short id when no host has such a name. Throws CliError. */
export async function locate(where: string): Promise<string> {
  const host = parseHost(where);
  if (!isShortId(where)) return host;
  const isName = await lookup(where).then(
    () => true,
    () => false,
  );
  if (isName) return host;
  const { findByShortId } = await import("../discovery/find.ts");
  const found = await findByShortId(where);
  note(`${where} is at ${found}.`);
  return found;
}

export async function askToTrust(host: string, name: string, shortId: string, fingerprint: string): Promise<void> {
  note(`${shortId} ("${name}") at ${host}\nFingerprint ${grouped(fingerprint)}`);
  if (!process.stdin.isTTY) {
    throw new CliError(
      "Compare the fingerprint with the one on its console, and give --fingerprint SHA256 or --yes.",
      exitCode.refused,
    );
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question("Is it the one on its console? [y/N] ");
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new CliError("Nothing was done.", exitCode.refused);
}

export async function listContexts({ format }: Globals): Promise<void> {
  const { current, contexts } = await readConfig();
  const rows = Object.entries(contexts).map(([name, context]) => ({ name, ...context, current: name === current }));
  if (format === "json") return say(JSON.stringify(rows, undefined, 2));
  if (format === "yaml") return void process.stdout.write((await import("../yaml.ts")).stringify(rows));
  printTable(
    rows,
    [
      { title: "", value: (row) => (row.current ? "*" : "") },
      { title: "NAME", value: (row) => row.name },
      { title: "HOST", value: (row) => row.host },
      { title: "ID", value: (row) => row.capsuleId.slice(0, 6) },
      { title: "FINGERPRINT", value: (row) => row.fingerprint, wide: true },
    ],
    format === "wide",
  );
}

export async function useContext(name: string): Promise<void> {
  await updateConfig((config) => {
    if (config.contexts[name] === undefined) throw noContext(name);
    return { ...config, current: name };
  });
  say(`"${name}" is the current context.`);
}

export async function removeContext(name: string): Promise<void> {
  await updateConfig(({ current, contexts }) => {
    if (contexts[name] === undefined) throw noContext(name);
    const { [name]: _, ...others } = contexts;
    return { current: current === name ? Object.keys(others)[0] : current, contexts: others };
  });
  say(`Context "${name}" is removed.`);
}

function noContext(name: string): CliError {
  return new CliError(`There is no context "${name}". \`capsulectl context list\` shows them.`, exitCode.notFound);
}

/** As people copy it: with colons, blanks, capitals or "SHA256:" before it. */
export function plainFingerprint(text: string): string {
  const plain = text
    .replace(/^sha256:/i, "")
    .replace(/[\s:]/g, "")
    .toLowerCase();
  if (/^[0-9a-f]{64}$/.test(plain)) return plain;
  throw new CliError("A fingerprint is a SHA-256 of 64 hexadecimal digits.", exitCode.usage);
}

function grouped(fingerprint: string): string {
  return fingerprint.replace(/(.{4})(?=.)/g, "$1 ");
}

/** The name, with a number when it is taken. */
export function freeName(wanted: string, taken: readonly string[]): string {
  const base = NAME.test(wanted) ? wanted : "capsule";
  for (let i = 1; ; i++) {
    const name = i === 1 ? base : `${base}-${i}`;
    if (!taken.includes(name)) return name;
  }
}
