/** A command in a guest's payload, by its agent. */
import { PassThrough } from "node:stream";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ExecInPayloadRequest } from "@capsule/api/guest.ts";
import { ExecInPayloadRequestSchema } from "@capsule/api/guest.ts";
import { drained } from "@capsule/api/write-all.ts";
import { CapsuleError } from "../../errors.ts";
import { type ExecBase, execProcessOf } from "../container/spec.ts";
import type { ExecOptions, ExecSession, TerminalSize } from "../driver.ts";
import type { Agent } from "./agent.ts";
import { translated } from "./errors.ts";
import { lookedUpInside } from "./spec.ts";

/** Starts it; resolves when it runs. Throws `precondition` in the words of the OCI runtime. */
export async function startGuestExec(agent: Agent, base: ExecBase, options: ExecOptions): Promise<ExecSession> {
  const session = new GuestExec(agent, base, options);
  await session.started;
  return session;
}

type Input = ExecInPayloadRequest["input"];

class GuestExec implements ExecSession {
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly started: Promise<void>;
  readonly exited: Promise<number>;
  readonly #inputs = new Inputs();
  readonly #abort = new AbortController();

  constructor({ client }: Agent, base: ExecBase, options: ExecOptions) {
    this.#inputs.push({
      case: "start",
      value: {
        $typeName: "capsule.v1.ExecInPayloadStart",
        ociProcess: new TextEncoder().encode(JSON.stringify(execProcessOf(base, options, lookedUpInside))),
        user: options.user ?? "",
        stdin: options.stdin,
        ...(options.size === undefined ? {} : { size: { $typeName: "capsule.v1.TerminalSize", ...options.size } }),
      },
    });
    let isStarted: () => void = () => undefined;
    let isRefused: (error: unknown) => void = () => undefined;
    this.started = new Promise((resolve, reject) => {
      isStarted = resolve;
      isRefused = reject;
    });
    this.started.catch(() => undefined); // awaited by startGuestExec
    const responses = client.execInPayload(this.#inputs, { signal: this.#abort.signal });
    this.exited = this.#read(responses, isStarted).catch((error: unknown) => {
      const told = translated(error, "The command could not be started");
      isRefused(told);
      for (const stream of [this.stdout, this.stderr]) stream.end();
      throw told;
    });
    this.exited.catch(() => undefined); // for callers who only dispose
  }

  async writeStdin(data: Uint8Array): Promise<void> {
    await this.#inputs.push({ case: "stdin", value: data });
  }

  async closeStdin(): Promise<void> {
    await this.#inputs.push({ case: "stdinClosed", value: true });
  }

  async resize(size: TerminalSize): Promise<void> {
    await this.#inputs.push({ case: "resize", value: { $typeName: "capsule.v1.TerminalSize", ...size } });
  }

  async signal(signal: number): Promise<void> {
    await this.#inputs.push({ case: "signal", value: signal });
  }

  async dispose(): Promise<void> {
    this.#inputs.end();
    this.#abort.abort();
    this.stdout.resume();
    this.stderr.resume();
    await this.exited.catch(() => undefined);
  }

  async #read(responses: ReturnType<Agent["client"]["execInPayload"]>, isStarted: () => void): Promise<number> {
    for await (const { output } of responses) {
      if (output.case === "started") isStarted();
      else if (output.case === "stdout" || output.case === "stderr") {
        const stream = this[output.case];
        if (!stream.destroyed && !stream.write(output.value)) await drained(stream);
      } else if (output.case === "exitCode") {
        this.#inputs.end();
        this.stdout.end();
        this.stderr.end();
        return output.value;
      }
    }
    throw new CapsuleError("unavailable", "The microVM ended before the command did.", { reason: "GUEST_GONE" });
  }
}

/** Requests in order; `push` resolves when the message has been taken. */
class Inputs implements AsyncIterable<MessageInitShape<typeof ExecInPayloadRequestSchema>> {
  readonly #waiting: { readonly input: Input; readonly taken: () => void }[] = [];
  #wake: () => void = () => undefined;
  #over = false;

  push(input: Input): Promise<void> {
    if (this.#over) return Promise.resolve();
    return new Promise((taken) => {
      this.#waiting.push({ input, taken });
      this.#wake();
    });
  }

  end(): void {
    this.#over = true;
    for (const { taken } of this.#waiting.splice(0)) taken();
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ExecInPayloadRequest> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield create(ExecInPayloadRequestSchema, { input: next.input });
        next.taken();
        continue;
      }
      if (this.#over) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
