/** From a machine's program to an agent that answers. */

import { existsSync } from "node:fs";
import { chown, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CapsuleError } from "../../errors.ts";
import type { LogPlace } from "../../logs/files.ts";
import { type Agent, dialAgent } from "./agent.ts";
import { type MachineConfig, type MicroVmBackend, monitor, type Program } from "./backends/backend.ts";
import { makeGroups } from "./cgroups.ts";
import { consoleTail, lastWritten } from "./console.ts";
import { jailed, jailedEnd, startJailed } from "./jail.ts";
import { type RunPaths, userOf } from "./layout.ts";

export interface BootOptions {
  readonly backend: MicroVmBackend;
  readonly config: MachineConfig;
  readonly paths: RunPaths;
  readonly console: LogPlace;
  readonly cpuMillis: number;
  /** Connects the interface that was made for the machine. */
  readonly connect: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** Of the monitor and its threads. */
const maxTasks = 256;
const pollMs = 20;
/**
 * A boot that says nothing for so long hangs; in milliseconds. An emulated one is ten times as slow, and so is one on KVM in an
 * emulated machine.
 */
const silenceMs = 90_000;
/** What a monitor needs before it listens, in milliseconds. */
const socketMs = 10_000;

/**
 * Starts the program of a machine; resolves when it listens. Throws CapsuleError with the last lines of its console when it
 * does not; what was started is still there then, here and in `untilAgent`.
 */
export async function bootMachine(options: BootOptions): Promise<void> {
  const { backend, config, paths, cpuMillis, signal } = options;
  const user = userOf(config.uid);
  await mkdir(paths.sockets, { recursive: true, mode: 0o755 });
  await chown(paths.sockets, user, user);
  const memoryBytes = config.memoryBytes + backend.overheadBytes(config);
  const cgroups = await makeGroups(config.uid, { cpuMillis, memoryBytes, pids: maxTasks });
  signal.throwIfAborted();
  await startProgram(backend.program(config, paths), options, cgroups);
}

async function startProgram(
  program: Program,
  { config, paths, console, connect }: BootOptions,
  cgroups: readonly string[],
): Promise<void> {
  const { readySocket, tap, files = [], ...what } = program;
  const { dir, root } = paths;
  // A socket of an earlier start would look like this one's, and a monitor that finds one does not listen.
  for (const socket of [readySocket, paths.agent]) await rm(socket, { force: true });
  for (const { at, content } of files) {
    const path = join(root, at);
    // Whatever the user of an earlier start has left at its place: a new file, and nothing is followed.
    await rm(path, { recursive: true, force: true });
    await writeFile(path, content, { flag: "wx", mode: 0o444 });
  }
  const since = new Date();
  const user = userOf(config.uid);
  await startJailed({ name: monitor, dir, root, user, cgroups, tap, output: console, ...what }, async () => {
    if (tap !== undefined) await connect();
  });
  const deadline = Date.now() + socketMs;
  while (!existsSync(readySocket)) {
    if ((await jailedEnd(dir, monitor)) !== undefined)
      throw await notBooted(console, since, "its monitor ended at once");
    if (Date.now() > deadline) throw await notBooted(console, since, "its monitor does not listen");
    await sleep(pollMs);
  }
}

/** Waits until the agent of a machine answers, as long as its boot goes on. Throws CapsuleError as `bootMachine` does. */
export async function untilAgent({ backend, paths, console, signal }: BootOptions): Promise<Agent> {
  const since = new Date();
  for (;;) {
    signal.throwIfAborted();
    const agent = await dialAgent(paths.agent, backend.agentPort);
    if (agent !== undefined) return agent;
    if ((await jailed(paths.dir, monitor)) === undefined)
      throw await notBooted(console, since, "its monitor ended while it was booting");
    const heardAt = Math.max(since.getTime(), await lastWritten(console));
    if (Date.now() - heardAt > silenceMs) throw await notBooted(console, since, "its boot makes no progress");
    await sleep(pollMs);
  }
}

async function notBooted(console: LogPlace, since: Date, what: string): Promise<CapsuleError> {
  const tail = await consoleTail(console, since);
  const said = tail.length === 0 ? "its console is empty" : `the last lines of its console:\n${tail.join("\n")}`;
  return new CapsuleError("precondition", `The microVM did not boot: ${what}; ${said}`, { reason: "BOOT_FAILED" });
}
