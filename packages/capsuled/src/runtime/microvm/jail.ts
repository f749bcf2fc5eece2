/** `capsule-init jail` (native/README.md, "Jails"): a program that outlives capsuled and can do nothing but its work. */
import { spawn } from "node:child_process";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { CapsuleError } from "../../errors.ts";
import type { LogPlace } from "../../logs/files.ts";
import { statOf } from "../container/process.ts";
import type { Node } from "./backends/backend.ts";

export interface JailOptions {
  /** Of the files beside it: NAME.json, NAME.pid, NAME.exit. */
  readonly name: string;
  readonly dir: string;
  readonly root: string;
  readonly user: number;
  readonly cgroups: readonly string[];
  readonly readOnly: readonly string[];
  readonly devices: readonly string[];
  /** Opened for it, as descriptors 4, 5 and so on. */
  readonly open: readonly { readonly path: string; readonly readOnly: boolean }[];
  /** What it opens itself. */
  readonly nodes: readonly Node[];
  /** Interface that is made for it: descriptor 3, unless `opensTap`. */
  readonly tap: string | undefined;
  /** It opens the interface itself, by its name. */
  readonly opensTap: boolean;
  /** The log of what it says. */
  readonly output: LogPlace;
  readonly argv: readonly string[];
}

/** Size at which the log of a program is rotated: the last boot and much more. */
const outputBytes = 1024 ** 2;

/** How a jailed program ended. */
export type ProgramEnd = { readonly kind: "exit" | "signal"; readonly number: number };

/**
 * Starts the program; `prepare` is called when its interface exists and before its first instruction. Resolves when it
 * runs. Throws CapsuleError when it cannot be started; nothing of it runs then.
 */
export async function startJailed(options: JailOptions, prepare: () => Promise<void>): Promise<void> {
  const { name, dir, root, user, cgroups, readOnly, devices, open, nodes, tap, opensTap, output, argv } = options;
  const prefix = join(dir, name);
  await rm(`${prefix}.exit`, { force: true });
  const config = {
    filesPrefix: prefix,
    root,
    uid: user,
    gid: user,
    cgroups,
    readOnly,
    devices,
    open,
    nodes,
    tap,
    opensTap,
    output: { ...output, maxBytes: outputBytes, maxFiles: 2 },
    argv,
  };
  await writeFile(`${prefix}.json`, JSON.stringify(config), { mode: 0o600 });
  const child = spawn("/sbin/capsule-init", ["jail", `${prefix}.json`], {
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
  child.stdin.on("error", () => undefined);
  let words = "";
  child.stderr.on("data", (data: Buffer) => {
    words = `${words}${data}`.slice(-1_000);
  });
  const ended = new Promise<void>((resolve) => {
    child.once("error", (error) => {
      words ||= error.message;
      resolve();
    });
    child.once("close", () => resolve());
  });
  const ready = new Promise<boolean>((resolve) => {
    createInterface({ input: child.stdout }).once("line", () => resolve(true));
    void ended.then(() => resolve(false));
  });
  if (!(await ready)) throw notStarted(name, words);
  try {
    await prepare();
  } catch (error) {
    child.stdin.destroy();
    await ended;
    throw error;
  }
  child.stdin.end("go\n");
  child.unref();
}

export interface RunningProgram {
  readonly pid: number;
  /** Stopped by a signal: it has what it has, and does nothing. */
  readonly isStill: boolean;
}

/** A jailed program that runs; undefined when it does not, or another process has its pid now. */
export async function jailed(dir: string, name: string): Promise<RunningProgram | undefined> {
  const [pid = "", startTime = ""] = (await readOrEmpty(join(dir, `${name}.pid`))).trim().split(" ");
  if (pid === "") return undefined;
  const seen = await statOf(Number(pid));
  return seen?.startTicks === startTime && seen.state !== "Z"
    ? { pid: Number(pid), isStill: seen.state === "T" }
    : undefined;
}

async function jailedNames(dir: string): Promise<string[]> {
  const files = await readdir(dir).catch(() => []);
  return files.filter((file) => file.endsWith(".pid")).map((file) => file.slice(0, -".pid".length));
}

/** Sends a signal to every jailed program of a directory that runs: one of those that no program can refuse. */
export async function signalJailed(dir: string, signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): Promise<void> {
  for (const name of await jailedNames(dir)) {
    const program = await jailed(dir, name);
    try {
      if (program !== undefined) process.kill(program.pid, signal);
    } catch (error) {
      // It has ended in this moment.
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** Undefined while it runs, and when nobody is left who could have noted it. */
export async function jailedEnd(dir: string, name: string): Promise<ProgramEnd | undefined> {
  const [kind, number] = (await readOrEmpty(join(dir, `${name}.exit`))).trim().split(" ");
  return kind === "exit" || kind === "signal" ? { kind, number: Number(number) } : undefined;
}

async function readOrEmpty(path: string): Promise<string> {
  return await readFile(path, "utf8").catch(() => "");
}

function notStarted(name: string, words: string): CapsuleError {
  const said = /capsule-init jail: (.*)/.exec(words)?.[1] ?? words.trim();
  return new CapsuleError("internal", `${name} could not be started: ${said}`, { reason: "JAIL_FAILED" });
}
