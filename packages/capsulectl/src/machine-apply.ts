/**
 * Applies the document of a machine. When it changes links, the capsule takes it back unless it is confirmed; whether it can
 * be reached is tried by a connection that is made anew, to where it was, to its new addresses, and to wherever it is found,
 * and only to the pinned key. Only that confirms it.
 */
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { ApplyMachineResponse, GetMachineResponse, MachineLink, MachineSpec } from "@capsule/api";
import { type Context, defaultPort, readKey, updateConfig } from "./config.ts";
import { connect } from "./connection.ts";
import { findMoved } from "./discovery/find.ts";
import { canMove } from "./discovery/follow.ts";
import { CliError } from "./errors.ts";
import { note, span } from "./output.ts";
import { reasonOf, violationsOf } from "./rpc-errors.ts";
import { type Capsule, capsuleOf, chooseContext, withCapsule } from "./session.ts";

export interface MachineApplyOptions {
  readonly dryRun: boolean;
  /** A minute when undefined. */
  readonly confirmWithinMs: number | undefined;
  /** Leaves the confirmation to the operator. */
  readonly confirmByHand: boolean;
  /** An error of the call, with the faults at their places. */
  readonly placed: (error: unknown) => unknown;
}

const defaultConfirmMs = 60_000;
/** A connection that is refused or answered says so at once; one into nowhere says nothing. In milliseconds. */
const connectMs = 5_000;
const againMs = 500;
/** After this the operator is told what the silence means. */
const patienceMs = 4_000;
/** After its time, until the capsule is back where it was. */
const backMs = 30_000;

/** Throws CliError when it was taken back. */
export async function applyMachine(
  chosen: string | undefined,
  machine: MachineSpec,
  options: MachineApplyOptions,
): Promise<ApplyMachineResponse> {
  const { dryRun, confirmWithinMs = defaultConfirmMs } = options;
  const response = await withCapsule(chosen, async (capsule) => {
    try {
      return await capsule.machine.applyMachine({ machine, dryRun, confirmWithin: durationFromMs(confirmWithinMs) });
    } catch (error) {
      throw violationsOf(error).length > 0 ? options.placed(error) : error;
    }
  });
  if (response.pending === undefined) return response;
  if (options.confirmByHand) {
    note(
      `The links change now. \`capsulectl machine confirm\` keeps this within ${span(confirmWithinMs)}; else the capsule takes it back by itself.`,
    );
    return response;
  }
  const { name, context } = await chooseContext(chosen);
  await confirmByReaching(name, context, machine, response.result?.generation ?? 0n, confirmWithinMs);
  return response;
}

/** Until it is confirmed, or known to be taken back. */
async function confirmByReaching(
  name: string,
  context: Context,
  machine: MachineSpec,
  generation: bigint,
  leftMs: number,
): Promise<void> {
  const startedAt = Date.now();
  const endAt = startedAt + leftMs;
  let faults: readonly string[] = [];
  const confirm = async (capsule: Capsule): Promise<boolean> => {
    const answer = await capsule.machine.getMachine({});
    if (answer.generation !== generation) throw takenBack(answer, generation);
    faults = answer.faults;
    // It was confirmed, and the answer got lost.
    if (answer.pending === undefined) return true;
    if (!answer.pending.inForce) return false;
    await capsule.machine.confirmMachine({ generation }).catch((error: unknown) => {
      // By another address, at the same time.
      if (reasonOf(error) !== "NOTHING_PENDING") throw error;
    });
    return true;
  };
  note("The links change now; the capsule is called anew by them.");
  const notes = [
    { at: startedAt + patienceMs, text: () => `It does not answer by them yet. ${orElse(endAt - Date.now())}` },
    { at: endAt, text: () => "It takes them back by itself now. Waiting until it answers as before." },
  ];
  while (Date.now() < endAt + backMs) {
    const host = await reach(name, context, Date.now() < endAt ? machine.links : [], confirm);
    if (host !== undefined) {
      for (const fault of faults) note(`machine: ${fault}`);
      return await follow(name, context, host);
    }
    while ((notes[0]?.at ?? Number.POSITIVE_INFINITY) <= Date.now()) note(notes.shift()?.text() ?? "");
    await new Promise((done) => setTimeout(done, againMs));
  }
  throw new CliError(
    `${name} answered neither by its new links nor by the former within ${backMs / 1_000} s after its time was over. Its console shows its addresses; docs/machine.md says what to do.`,
  );
}

function orElse(leftMs: number): string {
  return `Unless it does, it takes them back by itself in ${span(leftMs)}.`;
}

/** What came of a call: whoever has it to do again need not look elsewhere when the capsule was `reached`. */
type Outcome = "done" | "reached" | "away";

/**
 * Tries where the capsule was; where nobody answers, the addresses of its new links, all at once, and wherever it is found. The
 * address at which `work` was done, undefined when it was not. Throws TakenBack.
 */
async function reach(
  name: string,
  context: Context,
  links: readonly MachineLink[],
  work: (capsule: Capsule) => Promise<boolean>,
): Promise<string | undefined> {
  const attempt = async (host: string): Promise<Outcome> => await call(name, context, host, work);
  const before = await attempt(context.host);
  if (before !== "away") return before === "done" ? context.host : undefined;
  const hosts = newEndpoints(context, links);
  const outcomes = await Promise.all(hosts.map(attempt));
  const done = hosts.find((_, i) => outcomes[i] === "done");
  if (done !== undefined || outcomes.includes("reached") || !canMove(context.host)) return done;
  const moved = await findMoved(context);
  return moved !== undefined && (await attempt(moved.endpoint)) === "done" ? moved.endpoint : undefined;
}

async function call(
  name: string,
  context: Context,
  host: string,
  work: (capsule: Capsule) => Promise<boolean>,
): Promise<Outcome> {
  const limits = { connectTimeoutMs: connectMs, callTimeoutMs: connectMs };
  try {
    const connection = await connect({ host, key: readKey(), fingerprint: context.fingerprint, ...limits });
    try {
      connection.authenticate(context.capsuleId);
      return (await work(capsuleOf(name, connection))) ? "done" : "reached";
    } finally {
      connection.close();
    }
  } catch (error) {
    if (error instanceof TakenBack) throw error;
    return "away";
  }
}

/** Where it may be now: HOST:PORT. */
function newEndpoints({ host }: Context, links: readonly MachineLink[]): string[] {
  const ports = new Set([host.slice(host.lastIndexOf(":") + 1), String(defaultPort)]);
  const addresses = links.flatMap((link) => link.addresses.map((text) => text.slice(0, text.indexOf("/"))));
  return addresses
    .flatMap((address) =>
      [...ports].map((port) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`)),
    )
    .filter((endpoint) => endpoint !== host);
}

class TakenBack extends CliError {}

function takenBack({ reverted }: GetMachineResponse, generation: bigint): TakenBack {
  const reason = reverted?.generation === generation ? reverted.reason : "somebody else has changed it";
  return new TakenBack(`The document was taken back: ${reason}. What was in force before is again.`);
}

/** The context has the address by which it was reached. */
async function follow(name: string, context: Context, host: string): Promise<void> {
  if (host === context.host) return;
  await updateConfig((config) => {
    const now = config.contexts[name];
    if (now?.capsuleId !== context.capsuleId || now.fingerprint !== context.fingerprint) return config;
    return { ...config, contexts: { ...config.contexts, [name]: { ...now, host } } };
  });
  note(`"${name}" answers at ${host} now (it was at ${context.host}), and the context is updated.`);
}
