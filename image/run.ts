import { type SpawnOptions, spawn } from "node:child_process";
import { mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";

/** A command that could not be started or ended with another code than 0. */
export class CommandError extends Error {
  override name = "CommandError";
  readonly argv: readonly string[];
  readonly code: number | null;
  readonly stderr: string;

  constructor(argv: readonly string[], code: number | null, stderr: string, options?: ErrorOptions) {
    const tail = stderr.trim().split("\n").slice(-8).join("\n  ");
    super(`${argv.join(" ")} ended with ${code ?? "a signal"}${tail === "" ? "" : `:\n  ${tail}`}`, options);
    this.argv = argv;
    this.code = code;
    this.stderr = stderr;
  }
}

export type RunOptions = {
  cwd?: string;
  /** Added to the environment of this process. */
  env?: Record<string, string>;
  /** Text for the command's standard input; without it the input is empty. */
  input?: string;
  /** Append all output to this file too, so that a failure can be read later. */
  logFile?: string;
};

/**
 * Runs a command to its end and returns its standard output.
 * @throws {CommandError} when it cannot be started or fails; the message carries the end of its stderr.
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const [file, ...args] = argv;
  if (file === undefined) throw new TypeError("run() needs a command");
  let log: Awaited<ReturnType<typeof open>> | undefined;
  if (options.logFile !== undefined) {
    await mkdir(dirname(options.logFile), { recursive: true });
    log = await open(options.logFile, "a");
    await log.write(`$ ${argv.join(" ")}\n`);
  }
  try {
    return await collect(file, args, argv, options, (chunk) => void log?.appendFile(chunk));
  } finally {
    await log?.close();
  }
}

function collect(
  file: string,
  args: string[],
  argv: readonly string[],
  options: RunOptions,
  onOutput: (chunk: Buffer) => void,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const spawnOptions: SpawnOptions = { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, ...options.env } };
    if (options.cwd !== undefined) spawnOptions.cwd = options.cwd;
    const child = spawn(file, args, spawnOptions);
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout?.on("data", (chunk: Buffer) => {
      stdout.push(chunk);
      onOutput(chunk);
    });
    child.stderr?.on("data", (chunk: Buffer) => {
      stderr.push(chunk);
      onOutput(chunk);
    });
    child.once("error", (cause) => reject(new CommandError(argv, null, String(cause), { cause })));
    child.once("close", (code) => {
      if (code === 0) resolve(Buffer.concat(stdout).toString());
      else reject(new CommandError(argv, code, Buffer.concat(stderr).toString()));
    });
    // A command that ends without reading its input breaks the pipe; its exit code tells the rest.
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input ?? "");
  });
}
