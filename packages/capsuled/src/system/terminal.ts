/** A terminal of the machine: screen or serial line. It may be slow, paused, or not there; nobody waits for it. */
import { constants, openSync } from "node:fs";
import { ReadStream, WriteStream } from "node:tty";
import type { Logger } from "pino";

/** What waits for a terminal that takes nothing, such as one that was paused by Ctrl-S; more is not shown. In characters. */
const mostWaiting = 64 * 1024;

export class Terminal {
  readonly #device: string;
  readonly #log: Logger;
  #output: WriteStream | undefined;

  constructor(device: string, log: Logger) {
    this.#device = device;
    this.#log = log;
  }

  /** Never throws, never blocks: a serial line takes 4 KiB at once, and the rest goes when it can. */
  write(text: string): void {
    try {
      this.#output ??= this.#open();
      if (this.#output.writableLength < mostWaiting) this.#output.write(text.replaceAll("\n", "\r\n"));
    } catch (error) {
      this.#log.debug({ err: error, device: this.#device }, "the console cannot be written to");
    }
  }

  onKey(act: () => void): void {
    try {
      const input = new ReadStream(this.#descriptor());
      input.setRawMode(true);
      input.on("data", act);
      input.on("error", (error) => this.#log.debug({ err: error, device: this.#device }, "the console cannot be read"));
      input.unref();
    } catch (error) {
      this.#log.debug({ err: error, device: this.#device }, "the console cannot be read");
    }
  }

  #open(): WriteStream {
    const output = new WriteStream(this.#descriptor());
    output.on("error", (error) => {
      this.#log.debug({ err: error, device: this.#device }, "the console cannot be written to");
      this.#output = undefined;
    });
    output.unref();
    return output;
  }

  /** Not as controlling terminal: Ctrl-C there must not reach capsuled. */
  #descriptor(): number {
    return openSync(this.#device, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  }
}
