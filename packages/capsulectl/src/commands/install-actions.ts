import { hostname, userInfo } from "node:os";
import { createInterface } from "node:readline/promises";
import {
  IdentityService,
  type InstallRequest,
  type InstallResult,
  InstallResultSchema,
  InstallService,
  type InstallTarget,
} from "@capsule/api";
import type { Client } from "@connectrpc/connect";
import { type ClientKey, type Context, ensureKey, readConfig, updateConfig } from "../config.ts";
import { type Connection, connect } from "../connection.ts";
import { timerOption } from "../duration.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { awaitCapsule } from "../install/await-capsule.ts";
import { checkTarget, chooseTarget } from "../install/choose.ts";
import { bytes, type Column, note, printMessage, say, tableOf } from "../output.ts";
import { Progress } from "../progress.ts";
import { reasonOf, toCliError } from "../rpc-errors.ts";
import { followTime } from "../session.ts";
import { askToTrust, checkContextName, freeName, locate, plainFingerprint } from "./context-actions.ts";

export interface InstallOptions {
  readonly disk?: string;
  readonly name?: string;
  readonly hostname?: string;
  readonly fingerprint?: string;
  readonly yes?: boolean;
  readonly reinstall?: boolean;
  readonly erase?: string;
  /** commander's form of --no-reboot. */
  readonly reboot?: boolean;
  readonly wait?: string;
}

const defaultWaitMs = 10 * 60_000;

interface Claimed {
  readonly fingerprint: string;
  /** Of the installer, whose tokens are for it. */
  readonly capsuleId: string;
  readonly hostname: string;
}

export async function install({ format }: Globals, where: string, options: InstallOptions): Promise<void> {
  checkContextName(options.name);
  const waitMs = options.wait === undefined ? defaultWaitMs : timerOption("--wait", options.wait);
  const host = await locate(where);
  const key = await ensureKey();
  try {
    const claimed = await claim(host, key, options);
    // Another connection: one that was a stranger's when it began is cut soon.
    const connection = await connect({ host, key, fingerprint: claimed.fingerprint });
    let result: InstallResult;
    try {
      connection.authenticate(claimed.capsuleId);
      result = await carryOut(connection.client(InstallService), options);
    } finally {
      connection.close();
    }
    const { capsuleId, fingerprint } = result;
    const wanted = options.hostname ?? claimed.hostname;
    const context = { host, capsuleId, fingerprint };
    const name = await saveContext(context, (taken) => options.name ?? freeName(wanted, taken));
    const structured = format === "json" || format === "yaml";
    if (structured) await printMessage(format, InstallResultSchema, result);
    else say(`Installed ${result.shortId} on ${result.path}; it is adopted as "${name}", the current context now.`);
    note(
      result.reboots
        ? "Take out the stick now: the machine restarts, and is to start from its disk."
        : "Take out the stick and restart the machine: it starts from its disk.",
    );
    if (!result.reboots || waitMs === 0) return;
    await untilServing(name, context, waitMs, structured ? note : say);
  } catch (error) {
    throw toCliError(error, host);
  }
}

/** Looks who is there, has the fingerprint confirmed, and enrols the key on the installer. Throws CliError. */
async function claim(host: string, key: ClientKey, options: InstallOptions): Promise<Claimed> {
  const connection = await connect({ host, key, fingerprint: undefined });
  try {
    const identity = connection.client(IdentityService);
    const { capsuleId, shortId, hostname: name, adopted, claimWindow, time, mode } = await identity.getIdentity({});
    const { fingerprint } = connection;
    await checkFingerprint(connection, name, shortId, options);
    if (mode !== "installer")
      throw new CliError(
        `${shortId} ("${name}") at ${host} is a capsule that runs (${mode}), and no installer: nothing was done. To install it anew, start its machine from a stick with the image.`,
      );
    followTime(time);
    connection.authenticate(capsuleId);
    if (!adopted) {
      if (claimWindow === undefined)
        throw new CliError("Its 30 minutes are over: restart the machine from the stick.", exitCode.refused);
      await identity.claim({ name: `${userInfo().username}@${hostname()}` });
    } else
      await identity.whoAmI({}).catch((error: unknown) => {
        if (reasonOf(error) !== "UNKNOWN_KEY") throw error;
        throw new CliError(
          "Somebody else has begun to install this machine. If that is not meant, restart it from the stick.",
          exitCode.refused,
        );
      });
    return { fingerprint, capsuleId, hostname: name };
  } finally {
    connection.close();
  }
}

async function checkFingerprint(
  { host, fingerprint }: Connection,
  name: string,
  shortId: string,
  options: InstallOptions,
): Promise<void> {
  if (options.fingerprint !== undefined) {
    const wanted = plainFingerprint(options.fingerprint);
    if (wanted === fingerprint) return;
    throw new CliError(
      `The fingerprint of ${shortId} at ${host} is ${fingerprint}, and not ${wanted}: it is another machine, or somebody is in between. Nothing was done.`,
      exitCode.refused,
    );
  }
  if (options.yes !== true) await askToTrust(host, name, shortId, fingerprint);
}

async function carryOut(client: Client<typeof InstallService>, options: InstallOptions): Promise<InstallResult> {
  const { targets } = await client.listTargets({});
  note(tableOf(targets, columns));
  const target = chooseTarget(targets, options.disk);
  checkTarget(target, options.reinstall === true);
  const request: Omit<InstallRequest, "$typeName" | "$unknown"> = {
    path: target.path,
    hostname: options.hostname ?? "",
    reinstall: options.reinstall === true,
    erase: await confirmedLoss(target, options.erase),
    noReboot: options.reboot === false,
  };
  const progress = new Progress(target.path);
  try {
    for await (const { event } of client.install(request)) {
      if (event.case === "result") return event.value;
      if (event.case === "progress")
        progress.update(Number(event.value.doneBytes), Number(event.value.totalBytes), event.value.phase);
    }
  } finally {
    progress.end();
  }
  throw new CliError("The installer ended without a word. Its console tells whether the disk is whole.");
}

const columns: readonly Column<InstallTarget>[] = [
  { title: "DISK", value: ({ path }) => path },
  { title: "SIZE", value: ({ sizeBytes }) => bytes(sizeBytes), right: true },
  { title: "BUS", value: ({ transport }) => transport },
  { title: "MODEL", value: ({ model }) => model },
  { title: "SERIAL", value: ({ serial }) => serial },
  { title: "HOLDS", value: ({ description }) => description },
  { title: "INSTALL", value: ({ obstacle }) => (obstacle === "" ? "possible" : `no: ${obstacle}`) },
];

/** What the installer wants to hear before anything is lost: given, or typed now. Throws CliError. */
async function confirmedLoss(target: InstallTarget, given: string | undefined): Promise<string> {
  const { path, model, description, confirmation } = target;
  if (confirmation === "") return "";
  // A wrong one is the installer's to refuse.
  if (given !== undefined) return given;
  if (!process.stdin.isTTY)
    throw new CliError(
      `${path} is not blank (${description}). If everything on it may be lost, give --erase=${confirmation}.`,
      exitCode.usage,
    );
  note(`${path}${model === "" ? "" : ` (${model})`} holds ${description}. EVERYTHING on it will be lost, for good.`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const typed = await terminal.question(`Type ${confirmation} to go on: `);
  terminal.close();
  if (typed.trim() !== confirmation) throw new CliError("Nothing was done.", exitCode.refused);
  return confirmation;
}

async function saveContext(context: Context, nameOf: (taken: readonly string[]) => string): Promise<string> {
  let name = "";
  await updateConfig(({ contexts }) => {
    name = nameOf(Object.keys(contexts));
    return { current: name, contexts: { ...contexts, [name]: context } };
  });
  return name;
}

async function untilServing(
  name: string,
  context: Context,
  waitMs: number,
  tell: (text: string) => void,
): Promise<void> {
  const host = await awaitCapsule(context, waitMs);
  if (host === undefined)
    throw new CliError(
      `It is installed, and does not answer yet. Look at its console; \`capsulectl discover\` shows it when it does ("${name}" is your context of it).`,
      exitCode.timedOut,
    );
  const known = (await readConfig()).contexts[name];
  if (host !== context.host && known?.capsuleId === context.capsuleId)
    await updateConfig((config) => ({ ...config, contexts: { ...config.contexts, [name]: { ...context, host } } }));
  tell(`It answers at ${host}.`);
}
