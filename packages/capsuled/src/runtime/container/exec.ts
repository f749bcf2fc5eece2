/**
 * A command in a running container. containerd's shim reads and writes FIFOs; capsuled holds the other ends, without a
 * thread each: FIFOs opened by O_NONBLOCK are sockets to Node's event loop.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { constants, open } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { Socket } from "node:net";
import { join } from "node:path";
import { PassThrough, type Readable } from "node:stream";
import { promisify } from "node:util";
import { CapsuleError } from "../../errors.ts";
import type { ExecOptions, ExecSession, TerminalSize } from "../driver.ts";
import { type Containerd, jsonAny, orUndefined, runtimeWords, translated } from "./client.ts";
import { execProcessOf, PROCESS_TYPE, type User } from "./spec.ts";

const run = promisify(execFile);
export const execDir = "/run/capsule/exec";

/** What of a container's specification a command in it inherits. */
export interface BaseSpec {
  readonly process: {
    readonly env: readonly string[];
    readonly cwd: string;
    readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids?: readonly number[] };
    readonly capabilities: { readonly bounding: readonly string[] };
  };
}

/** Removes the FIFOs that a killed capsuled has left. Their commands run on, and end as their shims see fit. */
export async function cleanExecs(): Promise<void> {
  await rm(execDir, { recursive: true, force: true });
  await mkdir(execDir, { recursive: true, mode: 0o700 });
}

export async function startExec(
  client: Containerd,
  uid: string,
  spec: BaseSpec,
  options: ExecOptions,
  user: User | undefined,
): Promise<ExecSession> {
  const id = `x${randomBytes(8).toString("hex")}`;
  const dir = join(execDir, id);
  const pipes = await openPipes(dir, options);
  try {
    await client.tasks.exec({
      containerId: uid,
      execId: id,
      terminal: options.tty,
      stdin: options.stdin ? join(dir, "stdin") : "",
      stdout: join(dir, "stdout"),
      stderr: options.tty ? "" : join(dir, "stderr"),
      spec: jsonAny(PROCESS_TYPE, processFor(spec, options, user)),
    });
    const ended = client.tasks.wait({ containerId: uid, execId: id });
    ended.catch(() => undefined); // awaited by the session
    await client.tasks.start({ containerId: uid, execId: id });
    return new Session(client, uid, id, dir, pipes, ended);
  } catch (error) {
    await orUndefined(client.tasks.deleteProcess({ containerId: uid, execId: id })).catch(() => undefined);
    await pipes.close();
    await rm(dir, { recursive: true, force: true });
    const said = runtimeWords(error);
    if (said === undefined) throw translated(error, "The command could not be started");
    throw new CapsuleError("precondition", `The command could not be started: ${said}`, {
      cause: error,
      reason: "EXEC_REFUSED",
    });
  }
}

function processFor({ process }: BaseSpec, options: ExecOptions, user: User | undefined): Record<string, unknown> {
  const { env, cwd, capabilities } = process;
  const own = { ...process.user, additionalGids: process.user.additionalGids ?? [], home: "/" };
  return execProcessOf({ env, cwd, capabilities: capabilities.bounding }, options, user ?? own);
}

interface Pipes {
  readonly stdin: Socket | undefined;
  readonly stdout: Socket;
  readonly stderr: Socket | undefined;
  close(): Promise<void>;
}

async function openPipes(dir: string, options: ExecOptions): Promise<Pipes> {
  await mkdir(dir, { mode: 0o700 });
  const names = [...(options.stdin ? ["stdin"] : []), "stdout", ...(options.tty ? [] : ["stderr"])];
  await run(
    "mkfifo",
    names.map((name) => join(dir, name)),
  );
  const reader = async (name: string): Promise<Socket> => {
    // Without a writer yet this opens at once, and epoll reports no end before one came and went.
    const { fd } = await openRaw(join(dir, name), constants.O_RDONLY | constants.O_NONBLOCK);
    return new Socket({ fd, readable: true, writable: false });
  };
  const writer = async (name: string): Promise<Socket> => {
    // O_WRONLY would fail until the shim reads; with O_RDWR the FIFO has its reader in us.
    const { fd } = await openRaw(join(dir, name), constants.O_RDWR | constants.O_NONBLOCK);
    return new Socket({ fd, readable: false, writable: true });
  };
  const stdin = options.stdin ? await writer("stdin") : undefined;
  const stdout = await reader("stdout");
  const stderr = options.tty ? undefined : await reader("stderr");
  for (const socket of [stdin, stdout, stderr]) socket?.on("error", () => undefined);
  return {
    stdin,
    stdout,
    stderr,
    close: async () => {
      for (const socket of [stdin, stdout, stderr]) socket?.destroy();
    },
  };
}

/** The descriptor goes over to a Socket, which closes it: a FileHandle would close it again when collected. */
async function openRaw(path: string, flags: number): Promise<{ fd: number }> {
  return await new Promise((resolve, reject) => {
    open(path, flags, (error, fd) => (error === null ? resolve({ fd }) : reject(error)));
  });
}

class Session implements ExecSession {
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly exited: Promise<number>;
  readonly #client: Containerd;
  readonly #ids: { readonly containerId: string; readonly execId: string };
  readonly #dir: string;
  readonly #pipes: Pipes;
  #over = false;
  #disposed: Promise<void> | undefined;

  constructor(
    client: Containerd,
    uid: string,
    id: string,
    dir: string,
    pipes: Pipes,
    ended: Promise<{ readonly exitStatus: number }>,
  ) {
    this.#client = client;
    this.#ids = { containerId: uid, execId: id };
    this.#dir = dir;
    this.#pipes = pipes;
    this.stdout = pipes.stdout;
    this.stderr = pipes.stderr ?? new PassThrough().end();
    this.exited = this.#wait(ended);
    this.exited.catch(() => undefined); // for callers who only dispose
  }

  async writeStdin(data: Uint8Array): Promise<void> {
    const { stdin } = this.#pipes;
    if (stdin === undefined || stdin.destroyed || this.#over) return;
    await new Promise<void>((resolve) => {
      const settle = (): void => {
        stdin.off("close", settle);
        resolve();
      };
      stdin.once("close", settle);
      stdin.write(data, settle);
    });
  }

  async closeStdin(): Promise<void> {
    const { stdin } = this.#pipes;
    if (stdin === undefined || stdin.destroyed) return;
    await new Promise<void>((resolve) => stdin.end(() => resolve()));
    stdin.destroy();
    if (this.#over) return;
    // The shim holds the FIFO open for writing too, so it sees no end of it; it is told, and reads what is left first.
    await orUndefined(this.#client.tasks.closeIO({ ...this.#ids, stdin: true }));
  }

  async resize({ columns, rows }: TerminalSize): Promise<void> {
    if (this.#over) return;
    await orUndefined(this.#client.tasks.resizePty({ ...this.#ids, width: columns, height: rows }));
  }

  async signal(signal: number): Promise<void> {
    if (this.#over) return;
    await orUndefined(this.#client.tasks.kill({ ...this.#ids, signal, all: false }));
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #wait(ended: Promise<{ readonly exitStatus: number }>): Promise<number> {
    const streams = [this.#pipes.stdout, this.#pipes.stderr].map(
      (stream) =>
        new Promise<void>((resolve) =>
          stream === undefined || stream.destroyed ? resolve() : stream.once("close", resolve),
        ),
    );
    const { exitStatus } = await ended;
    this.#over = true;
    this.#pipes.stdin?.destroy();
    // The shim closes its ends when the process is deleted, after it has copied all.
    await orUndefined(this.#client.tasks.deleteProcess(this.#ids));
    await Promise.all(streams);
    await rm(this.#dir, { recursive: true, force: true });
    return exitStatus;
  }

  async #dispose(): Promise<void> {
    if (!this.#over) {
      try {
        await orUndefined(this.#client.tasks.kill({ ...this.#ids, signal: 9, all: false }));
      } catch {
        // It has ended in this moment.
      }
    }
    this.#pipes.stdout.resume();
    this.#pipes.stderr?.resume();
    const patience = new Promise((resolve) => setTimeout(resolve, 5_000).unref());
    await Promise.race([this.exited.catch(() => undefined), patience]);
    await this.#pipes.close();
    await rm(this.#dir, { recursive: true, force: true });
  }
}
