/**
 * A machine that runs, seen by this capsuled: what its payload writes is taken over, its end is noted and it is cleared away.
 * A capsuled that is killed leaves all of it to the next one, which attaches anew: nothing here is the only place where
 * something is known.
 */
import { watch } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { GuestState, type WatchStateResponse } from "@capsule/api/guest.ts";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { LogPlace } from "../../logs/files.ts";
import { type Agent, dialAgent } from "./agent.ts";
import { monitor } from "./backends/backend.ts";
import { removeGroups } from "./cgroups.ts";
import { consoleTail } from "./console.ts";
import { jailed, jailedEnd, type ProgramEnd, signalJailed } from "./jail.ts";
import type { RunPaths } from "./layout.ts";
import { type LogLimits, PayloadLog } from "./log-file.ts";

export interface MachineOptions {
  readonly uid: string;
  readonly paths: RunPaths;
  readonly console: LogPlace;
  readonly logs: LogLimits;
  readonly log: Logger;
  /** As its backend has it. */
  readonly agentPort: number | undefined;
  /** Of a machine that boots its own kernel, without an agent: asks it to shut down. */
  readonly pressPowerButton: (() => Promise<void>) | undefined;
  /** Something that `observe` tells has changed. */
  readonly onChange: () => void;
}

/** How a run ended, as it is kept. */
export interface RunEnd {
  readonly exitCode: number;
  readonly finishedAt: string;
  readonly outOfMemory: boolean;
  /** Why, when it was not the payload's own end. */
  readonly reason?: string;
}

/** After a lost connection, in milliseconds. */
const redialMs = 200;
/** For the guest to flush its disks, and to power off; in milliseconds. */
const powerOffMs = 60_000;
const endMs = 10_000;
const clockMs = 10_000;
/** Between a monitor's end and its note. */
const graceMs = 2_000;
/** Exit code of what was ended by SIGKILL, and of a machine that says nothing of its payload. */
const killed = 137;

export class Machine {
  readonly #options: MachineOptions;
  readonly #stopping = new AbortController();
  readonly #watcher: ReturnType<typeof watch>;
  #agent: Agent | undefined;
  #state: GuestState = GuestState.UNSPECIFIED;
  #isLogDone: () => void = () => undefined;
  readonly #logDone = new Promise<void>((resolve) => {
    this.#isLogDone = resolve;
  });
  #finishing: Promise<void> | undefined;
  #isGone: () => void = () => undefined;
  /** Resolves when nothing of the machine runs any more and its end is noted. */
  readonly gone = new Promise<void>((resolve) => {
    this.#isGone = resolve;
  });

  constructor(options: MachineOptions) {
    this.#options = options;
    // The jail notes the end of each program in this directory: seen at once, whoever started it.
    this.#watcher = watch(options.paths.dir, (_, name) => {
      if (name?.endsWith(".exit") === true) this.#lookSoon();
    });
    this.#watcher.unref();
  }

  /** Takes the machine over, with the connection of its boot if there is one. Returns at once. */
  attach(agent?: Agent): void {
    this.#agent = agent;
    if (this.#options.pressPowerButton === undefined)
      this.#follow().catch((error: unknown) => this.#failed(error, "following a microVM"));
    this.#lookSoon();
  }

  /** Leaves it alone: it runs on. */
  detach(): void {
    this.#stopping.abort();
    this.#watcher.close();
    this.#agent?.close();
  }

  /** The agent. Throws `unavailable` while it cannot be reached. */
  get agent(): Agent {
    if (this.#agent === undefined)
      throw new CapsuleError("unavailable", "The agent in the microVM does not answer. Try again.", {
        reason: "GUEST_GONE",
      });
    return this.#agent;
  }

  /** A call to the agent; undefined while it cannot be reached. */
  async askAgent<T>(call: (client: Agent["client"]) => Promise<T>): Promise<T | undefined> {
    return this.#agent === undefined ? undefined : await call(this.#agent.client);
  }

  /**
   * Ends the payload: signal, then SIGKILL after `timeoutMs`; flushes its disks and powers the machine off. A machine whose
   * agent does not answer is ended by force: its disks need a journal replay then. One without an agent is asked as a PC is, by
   * its power button, and has as long.
   */
  async stop(signal: number, timeoutMs: number): Promise<void> {
    const { pressPowerButton, log, uid } = this.#options;
    await this.#agent?.client.signalPayload({ signal }, { timeoutMs: endMs }).catch(() => undefined);
    await pressPowerButton?.().catch((error: unknown) =>
      log.warn({ err: error, uid }, "a microVM has no power button"),
    );
    if (this.#agent !== undefined || pressPowerButton !== undefined)
      await Promise.race([this.gone, sleep(timeoutMs, undefined, { ref: false })]);
    this.#finish();
    await this.gone;
  }

  /** Sets the guest's clock, which stood still with it; one without an agent does so itself. A guest that does not answer for long keeps the time that it has. */
  async setClock(): Promise<void> {
    const { log, uid } = this.#options;
    if (this.#options.pressPowerButton !== undefined) return;
    const deadline = Date.now() + clockMs;
    try {
      while (this.#agent === undefined && Date.now() < deadline) await sleep(redialMs);
      await this.agent.client.setTime({ now: timestampFromDate(new Date()) }, { timeoutMs: clockMs });
    } catch (error) {
      log.warn({ err: error, uid }, "the clock of a resumed microVM was not set");
    }
  }

  /** The connection to the agent, kept up: its state and its log. */
  async #follow(): Promise<void> {
    const { paths, log, uid, agentPort } = this.#options;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      // One that stands still accepts nothing: calls would only pile up in it.
      const agent =
        this.#agent ??
        ((await jailed(paths.dir, monitor))?.isStill === true ? undefined : await dialAgent(paths.agent, agentPort));
      if (agent === undefined) {
        await this.#look();
        await sleep(redialMs, undefined, { ref: false });
        continue;
      }
      this.#agent = agent;
      const parts = [this.#followState(agent), this.#followLog(agent)];
      for (const part of parts)
        part.catch((error: unknown) => {
          if (!signal.aborted) log.debug({ err: error, uid }, "a stream of a microVM's agent ended");
          agent.close();
        });
      await agent.closed;
      await Promise.allSettled(parts);
      this.#agent = undefined;
    }
  }

  async #followState(agent: Agent): Promise<void> {
    for await (const state of agent.client.watchState({}, { signal: this.#stopping.signal })) {
      this.#state = state.state;
      if (state.state === GuestState.RUNNING) await this.#noteStarted(state);
      if (state.state === GuestState.EXITED) {
        await this.#noteStarted(state);
        await this.#noteEnd(endOf(state));
        this.#finish();
      }
    }
  }

  async #followLog(agent: Agent): Promise<void> {
    const file = await PayloadLog.open(this.#options.logs);
    try {
      const known = new Latest(file.last ?? create(TimestampSchema));
      const responses = agent.client.payloadLogs(known, { signal: this.#stopping.signal });
      for await (const { lines, last, end } of responses) {
        if (lines.length > 0) await file.write(lines);
        if (last !== undefined) known.set(last);
        if (end) this.#isLogDone();
      }
    } finally {
      await file.close();
    }
  }

  /** Once: the rest of the log, flushed disks, no power, nothing left. */
  #finish(): void {
    this.#finishing ??= (async () => {
      const agent = this.#agent;
      if (agent !== undefined) {
        if (this.#state === GuestState.EXITED)
          await Promise.race([this.#logDone, sleep(endMs, undefined, { ref: false })]);
        await this.#powerOff(agent);
      }
      await signalJailed(this.#options.paths.dir, "SIGKILL");
      await this.#untilEnded(endMs);
      await this.#look();
    })().catch((error: unknown) => this.#failed(error, "ending a microVM"));
  }

  async #powerOff({ client, closed }: Agent): Promise<void> {
    const { log, uid } = this.#options;
    try {
      const { faults } = await client.powerOff({}, { timeoutMs: powerOffMs });
      for (const fault of faults) log.warn({ uid, fault: fault.slice(0, 500) }, "a microVM could not flush a disk");
      await Promise.race([closed, this.gone, sleep(endMs, undefined, { ref: false })]);
      await this.#untilEnded(endMs);
    } catch (error) {
      log.warn({ err: error, uid }, "a microVM was not powered off in order");
    }
  }

  async #untilEnded(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while ((await jailed(this.#options.paths.dir, monitor)) !== undefined && Date.now() < deadline) await sleep(10);
  }

  #lookSoon(): void {
    this.#look().catch((error: unknown) => this.#failed(error, "looking at a microVM"));
  }

  /** It is looked at again by the reconciler. */
  #failed(error: unknown, what: string): void {
    this.#options.log.error({ err: error, uid: this.#options.uid }, `${what} failed`);
  }

  /** Whether the monitor is gone: then its end is noted, once. */
  async #look(): Promise<void> {
    const { paths, uid, onChange, log } = this.#options;
    if (this.#stopping.signal.aborted) return;
    if ((await jailed(paths.dir, monitor)) !== undefined) return;
    this.detach();
    try {
      const end = await this.#endOfMonitor();
      // Without an agent, that it has powered off is all that is known.
      const isPowerOff = this.#options.pressPowerButton !== undefined && end?.kind === "exit" && end.number === 0;
      await this.#noteEnd(isPowerOff ? poweredOff() : await unexpectedEnd(end, this.#options.console));
      await removeGroups(uid);
      log.debug({ uid, end }, "a microVM has ended");
    } finally {
      // Whoever waits for the end must not wait for what could not be noted of it.
      this.#isGone();
      onChange();
    }
  }

  /** The jail notes it a moment after it can be seen. Undefined when the jail is gone too. */
  async #endOfMonitor(): Promise<ProgramEnd | undefined> {
    const { dir } = this.#options.paths;
    const deadline = Date.now() + graceMs;
    for (;;) {
      const end = await jailedEnd(dir, monitor);
      if (end !== undefined || Date.now() > deadline) return end;
      await sleep(10);
    }
  }

  async #noteStarted({ startedAt }: WatchStateResponse): Promise<void> {
    const { paths, onChange } = this.#options;
    if ((await readStarted(paths)) !== undefined) return;
    await writeStarted(paths, startedAt === undefined ? new Date() : timestampDate(startedAt));
    onChange();
  }

  /** The first that is noted stays: the payload's own end says more than the machine's. */
  async #noteEnd(end: RunEnd): Promise<void> {
    const { paths } = this.#options;
    if ((await readEnd(paths)) === undefined) await writeJson(paths.ended, end);
  }
}

/** Acknowledgements of a log: only the latest matters. */
class Latest implements AsyncIterable<{ known: Timestamp }> {
  #value: Timestamp | undefined;
  #wake: () => void = () => undefined;

  constructor(first: Timestamp) {
    this.#value = first;
  }

  set(value: Timestamp): void {
    this.#value = value;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<{ known: Timestamp }> {
    for (;;) {
      const known = this.#value;
      this.#value = undefined;
      if (known !== undefined) yield { known };
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

function endOf({ exitCode, finishedAt, outOfMemory }: WatchStateResponse): RunEnd {
  const at = finishedAt === undefined ? new Date() : timestampDate(finishedAt);
  return { exitCode: exitCode & 0xff, finishedAt: at.toISOString(), outOfMemory };
}

function poweredOff(): RunEnd {
  return { exitCode: 0, finishedAt: new Date().toISOString(), outOfMemory: false };
}

async function unexpectedEnd(end: ProgramEnd | undefined, console: LogPlace): Promise<RunEnd> {
  const tail = end?.kind === "exit" ? (await consoleTail(console)).at(-1) : undefined;
  return failed(
    `Its virtual machine monitor ${howEnded(end)}${tail === undefined ? "" : `; the console says: ${tail}`}`,
  );
}

function failed(reason: string): RunEnd {
  return { exitCode: killed, finishedAt: new Date().toISOString(), outOfMemory: false, reason };
}

function howEnded(end: ProgramEnd | undefined): string {
  if (end === undefined) return "is gone";
  return end.kind === "signal" ? `was killed by signal ${end.number}` : `ended with code ${end.number}`;
}

export async function readStarted(paths: RunPaths): Promise<Date | undefined> {
  const found = await readJson<{ readonly startedAt: string }>(paths.started);
  return found === undefined ? undefined : new Date(found.startedAt);
}

export async function writeStarted(paths: RunPaths, startedAt: Date): Promise<void> {
  await writeJson(paths.started, { startedAt: startedAt.toISOString() });
}

export async function readEnd(paths: RunPaths): Promise<RunEnd | undefined> {
  return await readJson<RunEnd>(paths.ended);
}

async function readJson<T>(path: string): Promise<T | undefined> {
  const text = await readFile(path, "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as T);
}

/** Whoever reads it sees all of it. It lives as long as the capsule is up, so it need not be durable. */
async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(value), { mode: 0o640 });
  await rename(`${path}.new`, path);
}
