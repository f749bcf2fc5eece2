import { constants } from "node:os";
import { create } from "@bufbuild/protobuf";
import { type ExecRequest, ExecRequestSchema, type ExecResponse } from "@capsule/api";
import { CliError, exitCode, QuietExit } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { type Capsule, withCapsule } from "../session.ts";
import { write } from "./logs-actions.ts";

export interface ExecOptions {
  readonly stdin?: boolean;
  readonly tty?: boolean;
  readonly env?: string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly privileged?: boolean;
}

type Input = ExecRequest["input"];

/** Ends with the command's own exit code. */
export async function exec(
  { capsule: chosen }: Globals,
  name: string,
  words: string[],
  options: ExecOptions,
): Promise<void> {
  const command = words[0] === "--" ? words.slice(1) : words;
  if (command.length === 0)
    throw new CliError("a command is needed: capsulectl workload exec NAME -- COMMAND", exitCode.usage);
  const tty = options.tty === true;
  if (tty && !process.stdin.isTTY)
    throw new CliError("-t needs a terminal on standard input; leave it out for a pipe", exitCode.usage);
  const call = (capsule: Capsule, requests: AsyncIterable<ExecRequest>): AsyncIterable<ExecResponse> =>
    capsule.workloads.exec(requests);
  await run(chosen, name, command, options, call);
}

/** A shell, or a command, with a volume at /mnt. */
export async function shell(
  { capsule: chosen }: Globals,
  volume: string,
  words: string[],
  { readOnly = false }: { readOnly?: boolean },
): Promise<void> {
  const command = words[0] === "--" ? words.slice(1) : words;
  const tty = command.length === 0 && process.stdin.isTTY === true;
  const call = (capsule: Capsule, requests: AsyncIterable<ExecRequest>): AsyncIterable<ExecResponse> =>
    capsule.volumes.shell(requests);
  await run(chosen, volume, command.length === 0 ? ["/bin/sh"] : command, { stdin: true, tty, readOnly }, call);
}

/** What an exec has of its own in a volume or on the machine itself. */
interface PlaceOptions {
  readonly readOnly?: boolean;
  readonly image?: string;
  readonly keep?: boolean;
}

/** Runs a command as `call` asks for it; ends with the command's own exit code. */
export async function run(
  chosen: string | undefined,
  name: string,
  command: string[],
  options: ExecOptions & PlaceOptions,
  call: (capsule: Capsule, requests: AsyncIterable<ExecRequest>) => AsyncIterable<ExecResponse>,
): Promise<void> {
  const tty = options.tty === true;
  const withInput = options.stdin === true || tty;
  const code = await withCapsule(chosen, async (capsule) => {
    const requests = new Requests();
    requests.push({
      case: "start",
      value: {
        $typeName: "capsule.v1.ExecStart",
        name,
        command,
        tty,
        stdin: withInput,
        env: (options.env ?? []).map(variable),
        workingDir: options.workdir ?? "",
        user: options.user ?? "",
        privileged: options.privileged === true,
        readOnly: options.readOnly === true,
        image: options.image ?? "",
        keep: options.keep === true,
        ...(tty ? { size: terminalSize() } : {}),
      },
    });
    const local = new LocalTerminal(requests, withInput, tty);
    try {
      let exit: number | undefined;
      for await (const { output } of call(capsule, requests)) {
        if (output.case === "started") local.start();
        else if (output.case === "stdout") await write(process.stdout, output.value);
        else if (output.case === "stderr") await write(process.stderr, output.value);
        else if (output.case === "exitCode") exit = output.value;
      }
      return exit;
    } finally {
      local.stop();
      requests.end();
    }
  });
  if (code === undefined) throw new CliError("the connection ended before the command did");
  if (code !== 0) throw new QuietExit(code);
}

function variable(text: string): { $typeName: "capsule.v1.EnvVar"; name: string; value: string } {
  const at = text.indexOf("=");
  if (at < 1) throw new CliError(`-e ${text}: NAME=VALUE is needed`, exitCode.usage);
  return { $typeName: "capsule.v1.EnvVar", name: text.slice(0, at), value: text.slice(at + 1) };
}

function terminalSize(): { $typeName: "capsule.v1.TerminalSize"; columns: number; rows: number } {
  return {
    $typeName: "capsule.v1.TerminalSize",
    columns: process.stdout.columns ?? 80,
    rows: process.stdout.rows ?? 24,
  };
}

/** Our own input, size and signals on their way to the command; the terminal is as before after `stop`. */
class LocalTerminal {
  readonly #requests: Requests;
  readonly #withInput: boolean;
  readonly #tty: boolean;
  #ends: (() => void)[] = [];
  #reads = false;

  constructor(requests: Requests, withInput: boolean, tty: boolean) {
    this.#requests = requests;
    this.#withInput = withInput;
    this.#tty = tty;
  }

  start(): void {
    if (this.#tty) {
      process.stdin.setRawMode(true);
      this.#ends.push(() => process.stdin.setRawMode(false));
      const resize = (): void => this.#requests.push({ case: "resize", value: terminalSize() });
      process.stdout.on("resize", resize);
      this.#ends.push(() => process.stdout.off("resize", resize));
    } else {
      for (const name of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
        const pass = (): void => this.#requests.push({ case: "signal", value: constants.signals[name] });
        process.on(name, pass);
        this.#ends.push(() => process.off(name, pass));
      }
    }
    if (!this.#withInput) return;
    this.#reads = true;
    void this.#readInput();
  }

  stop(): void {
    for (const end of this.#ends) end();
    this.#ends = [];
    // Else an open input would keep the program.
    if (this.#reads) process.stdin.destroy();
  }

  async #readInput(): Promise<void> {
    try {
      for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
        this.#requests.push({ case: "stdin", value: chunk });
        await this.#requests.taken();
      }
      this.#requests.push({ case: "stdinClosed", value: true });
    } catch {
      // Destroyed by stop().
    }
  }
}

/** Requests as they come. */
class Requests implements AsyncIterable<ExecRequest> {
  readonly #waiting: Input[] = [];
  #ended = false;
  #wake: () => void = () => undefined;
  #taken: () => void = () => undefined;

  push(input: Input): void {
    this.#waiting.push(input);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** Resolves when everything was taken: the reader of our input waits for it. */
  async taken(): Promise<void> {
    if (this.#waiting.length === 0) return;
    await new Promise<void>((resolve) => {
      this.#taken = resolve;
    });
  }

  async *[Symbol.asyncIterator](): AsyncIterator<ExecRequest> {
    for (;;) {
      const input = this.#waiting.shift();
      if (input !== undefined) {
        yield create(ExecRequestSchema, { input });
        if (this.#waiting.length === 0) this.#taken();
      } else if (this.#ended) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
