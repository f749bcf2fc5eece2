/** From a machine's programs to an agent that answers. */

import { existsSync } from "node:fs";
import { chown, mkdir, open, rm, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { CapsuleError } from "../../errors.ts";
import { type Agent, dialAgent } from "./agent.ts";
import { type MachineConfig, type MicroVmBackend, monitor, type Program } from "./backends/backend.ts";
import { makeGroups } from "./cgroups.ts";
import { jailedEnd, jailedPid, startJailed } from "./jail.ts";
import { type RunPaths, userOf } from "./layout.ts";

export interface BootOptions {
  readonly backend: MicroVmBackend;
  readonly config: MachineConfig;
  readonly paths: RunPaths;
  readonly cpuMillis: number;
  /** Connects the interface that was made for the machine. */
  readonly connect: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** Of the monitor and its threads. */
const maxTasks = 256;
const pollMs = 20;
/** A boot that says nothing for so long hangs; in milliseconds. An emulated one is ten times as slow. */
const silenceMs = { kvm: 20_000, tcg: 90_000 } as const;
/** What programs need before they listen, in milliseconds. */
const socketMs = 10_000;
/** How much of the console is told of a boot that failed. */
const toldLines = 5;
const toldBytes = 4_096;

/**
 * Starts all programs of a machine and waits until its agent answers, as long as its boot goes on. Throws CapsuleError
 * with the last lines of its console when it does not; what was started is still there then.
 */
export async function bootMachine(options: BootOptions): Promise<Agent> {
  const { backend, config, paths, cpuMillis, signal } = options;
  const user = userOf(config.uid);
  await mkdir(paths.sockets, { recursive: true, mode: 0o755 });
  await chown(paths.sockets, user, user);
  const memoryBytes = config.memoryBytes + backend.overheadBytes(config);
  const cgroups = await makeGroups(config.uid, { cpuMillis, memoryBytes, pids: maxTasks });
  for (const program of backend.programs(config, paths)) {
    signal.throwIfAborted();
    await startProgram(program, options, cgroups);
  }
  return await untilAgent(options);
}

async function startProgram(
  program: Program,
  { config, paths, connect }: BootOptions,
  cgroups: readonly string[],
): Promise<void> {
  const { name, argv, devices, open, tap, readySocket } = program;
  // A socket of an earlier start would look like this one's.
  if (readySocket !== undefined) await rm(readySocket, { force: true });
  const { dir, root } = paths;
  const output = name === monitor ? paths.serial : `${dir}/${name}.log`;
  const user = userOf(config.uid);
  await startJailed({ name, dir, root, user, cgroups, devices, open, tap, output, argv }, async () => {
    if (tap !== undefined) await connect();
  });
  if (readySocket === undefined) return;
  const deadline = Date.now() + socketMs;
  while (!existsSync(readySocket)) {
    if ((await jailedEnd(dir, name)) !== undefined) throw await notBooted(output, `${name} ended at once`);
    if (Date.now() > deadline) throw await notBooted(output, `${name} does not listen`);
    await sleep(pollMs);
  }
}

async function untilAgent({ config, paths, signal }: BootOptions): Promise<Agent> {
  let size = 0;
  let heardAt = Date.now();
  for (;;) {
    signal.throwIfAborted();
    const agent = await dialAgent(paths.agent);
    if (agent !== undefined) return agent;
    if ((await jailedPid(paths.dir, monitor)) === undefined)
      throw await notBooted(paths.serial, "it ended while it was booting");
    const now = (await stat(paths.serial)).size;
    if (now !== size) heardAt = Date.now();
    size = now;
    if (Date.now() - heardAt > silenceMs[config.accelerator])
      throw await notBooted(paths.serial, "its boot makes no progress");
    await sleep(pollMs);
  }
}

/** The last lines of a machine's console. */
export async function consoleTail(path: string): Promise<string> {
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return "";
  try {
    const { size } = await file.stat();
    const length = Math.min(size, toldBytes);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    const lines = buffer
      .toString("utf8")
      .replaceAll(/[^\P{Cc}\n]/gu, "")
      .split("\n");
    return lines
      .filter((line) => line.trim() !== "")
      .slice(-toldLines)
      .join("\n");
  } finally {
    await file.close();
  }
}

async function notBooted(console: string, what: string): Promise<CapsuleError> {
  const tail = await consoleTail(console);
  const said = tail === "" ? "its console is empty" : `the last lines of its console:\n${tail}`;
  return new CapsuleError("precondition", `The microVM did not boot: ${what}; ${said}`, { reason: "BOOT_FAILED" });
}
