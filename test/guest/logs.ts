/** Reads the log of a guest's payload from a test. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { PayloadLogsRequestSchema } from "@capsule/api/gen/capsule/v1/guest_pb.js";
import type { Agent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";

type Request = MessageInitShape<typeof PayloadLogsRequestSchema>;

const second = 1_000_000_000n;

export function nanos({ seconds, nanos }: Pick<Timestamp, "seconds" | "nanos">): bigint {
  return seconds * second + BigInt(nanos);
}

/** One stream of the log, from a time on. */
export class LogReader {
  readonly lines: string[] = [];
  bytes = 0;
  /** The payload's end came. */
  isEnd = false;
  /** Resolves when the stream is over, however. */
  readonly ended: Promise<void>;
  #last: bigint;
  #isAcknowledging = false;
  readonly #stopAfter: number;
  #isOver = false;
  readonly #abort = new AbortController();
  readonly #requests: Request[] = [];
  #wake: () => void = () => {};

  /** Drops the stream as soon as it has `stopAfter` lines. */
  constructor({ client }: Agent, known: bigint, stopAfter = Number.POSITIVE_INFINITY) {
    this.#stopAfter = stopAfter;
    this.#last = known;
    this.#tell(known);
    this.ended = this.#read(client);
  }

  /** Time of the last line that came. */
  get last(): bigint {
    return this.#last;
  }

  get times(): bigint[] {
    return this.lines.map((line) => {
      const [whole = "", fraction = ""] = line.slice(0, 29).split(".");
      return BigInt(Date.parse(`${whole}Z`)) * 1_000_000n + BigInt(fraction);
    });
  }

  async has(pattern: RegExp, timeoutMs = 20_000): Promise<void> {
    await this.#until(() => this.lines.slice(-2_000).some((line) => pattern.test(line)), timeoutMs, String(pattern));
  }

  async moreThan(count: number, timeoutMs = 20_000): Promise<void> {
    await this.#until(() => this.lines.length > count || this.#isOver, timeoutMs, `${count} lines`).catch(() => {});
  }

  /** All that came is known. */
  acknowledge(): void {
    this.#tell(this.#last);
  }

  /** From now on, as it comes. */
  async acknowledgeAll(): Promise<void> {
    this.#isAcknowledging = true;
    this.acknowledge();
    await this.ended;
  }

  async close(): Promise<void> {
    // What was said before must leave first.
    await new Promise((resolve) => setTimeout(resolve, 100));
    this.#abort.abort();
    await this.ended;
  }

  #tell(time: bigint): void {
    this.#requests.push({ known: { seconds: time / second, nanos: Number(time % second) } });
    this.#wake();
  }

  async #read(client: Agent["client"]): Promise<void> {
    try {
      for await (const answer of client.payloadLogs(this.#send(), { signal: this.#abort.signal })) {
        if (answer.end) {
          this.isEnd = true;
          return;
        }
        const text = Buffer.from(answer.lines).toString("latin1");
        if (!text.endsWith("\n") || answer.last === undefined) throw new Error("no whole lines");
        this.bytes += answer.lines.length;
        this.lines.push(...text.slice(0, -1).split("\n"));
        this.#last = nanos(answer.last);
        if (this.#isAcknowledging) this.acknowledge();
        if (this.lines.length >= this.#stopAfter) return;
      }
    } catch {
      // Dropped, by this side or the other.
    } finally {
      this.#isOver = true;
      this.#wake();
    }
  }

  async *#send(): AsyncGenerator<Request> {
    while (!this.#isOver) {
      const next = this.#requests.shift();
      if (next !== undefined) yield next;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }

  async #until(isTrue: () => boolean, timeoutMs: number, what: string): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!isTrue()) {
      if (Date.now() > deadline) throw new Error(`no ${what} in ${this.lines.length} lines: ${this.lines.slice(-3)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
