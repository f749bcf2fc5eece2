/** Commands in the payload of a guest, driven from a test. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  ExecInPayloadRequest,
  ExecInPayloadRequestSchema,
  ExecInPayloadStart,
} from "@capsule/api/gen/capsule/v1/guest_pb.js";
import type { Agent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";

type Request = MessageInitShape<typeof ExecInPayloadRequestSchema>;
export type Input = NonNullable<ExecInPayloadRequest["input"]>;

export interface ExecOptions {
  readonly user?: string;
  readonly stdin?: boolean;
  /** Columns and rows of a terminal. */
  readonly tty?: readonly [columns: number, rows: number];
}

/** Of the payload and of commands: with fewer a command could not open the payload's streams by /proc/1/fd. */
const names = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"];
const capabilities = { bounding: names, effective: names, permitted: names };

/** The OCI process of a command. */
export function processOf(args: readonly string[], terminal = false): unknown {
  return {
    args,
    cwd: "/",
    env: ["PATH=/bin", "TERM=linux"],
    terminal,
    capabilities,
    noNewPrivileges: true,
    user: { uid: 0, gid: 0 },
  };
}

/** A command that runs. What it says is collected; `done` resolves at its end, or rejects. */
export class Exec {
  stdout = "";
  stderr = "";
  /** Bytes of standard output. */
  received = 0;
  exitCode: number | undefined;
  readonly done: Promise<number>;
  readonly abort = new AbortController();
  readonly #waiting: Request[] = [];
  #wake: () => void = () => {};
  #isOver = false;

  constructor({ client }: Agent, args: readonly string[], options: ExecOptions = {}) {
    const size = options.tty;
    const start = {
      ociProcess: Buffer.from(JSON.stringify(processOf(args, size !== undefined))),
      user: options.user ?? "",
      stdin: options.stdin ?? false,
      ...(size === undefined ? {} : { size: { columns: size[0], rows: size[1] } }),
    } satisfies Partial<ExecInPayloadStart> | { size?: { columns: number; rows: number } };
    this.#waiting.push({ input: { case: "start", value: start } });
    this.done = this.#run(client);
    this.done.catch(() => {});
  }

  send(input: Input): void {
    this.#waiting.push({ input });
    this.#wake();
  }

  write(text: string | Uint8Array): void {
    this.send({ case: "stdin", value: Buffer.from(text) });
  }

  /** Waits until its output matches. */
  async says(pattern: RegExp, timeoutMs = 20_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!pattern.test(this.stdout)) {
      if (Date.now() > deadline || this.#isOver) throw new Error(`no ${pattern} in ${JSON.stringify(this.stdout)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #run(client: Agent["client"]): Promise<number> {
    try {
      for await (const { output } of client.execInPayload(this.#requests(), { signal: this.abort.signal })) {
        if (this.exitCode !== undefined) throw new Error("something came after the exit code");
        if (output.case === "stdout") {
          this.stdout += Buffer.from(output.value).toString();
          this.received += output.value.length;
        } else if (output.case === "stderr") this.stderr += Buffer.from(output.value).toString();
        else if (output.case === "exitCode") this.exitCode = output.value;
      }
      if (this.exitCode === undefined) throw new Error("the stream ended without an exit code");
      return this.exitCode;
    } finally {
      this.#isOver = true;
      this.#wake();
    }
  }

  async *#requests(): AsyncGenerator<Request> {
    while (!this.#isOver) {
      const next = this.#waiting.shift();
      if (next !== undefined) yield next;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

/** Runs a command to its end. */
export async function exec(guest: Agent, args: readonly string[], options?: ExecOptions): Promise<Exec> {
  const command = new Exec(guest, args, options);
  await command.done;
  return command;
}
