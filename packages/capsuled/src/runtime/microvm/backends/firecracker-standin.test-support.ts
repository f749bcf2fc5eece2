/**
 * In Firecracker's place, for there is none here: its API as its documents and its sources tell it (docs/api_requests,
 * docs/snapshotting), and strict: what it would not take, this does not take either. It runs no machine.
 */
import { once } from "node:events";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { join, relative } from "node:path";
import { bodies, faultIn } from "./firecracker-schema.test-support.ts";

type State = "Not started" | "Running" | "Paused";

export interface StandInOptions {
  /** Directory of its sockets, seen from outside; it sees it as /run. */
  readonly dir: string;
  readonly state: State;
  /** Of the guest. */
  readonly memory: Buffer;
}

/** State of the devices, in a snapshot. */
export const devices = Buffer.from("state of all devices");

export class FirecrackerStandIn {
  readonly #options: StandInOptions;
  readonly #server: Server;
  state: State;
  memory: Buffer;
  /** What was asked: method, path, and the state that it has then. */
  readonly asked: string[] = [];
  /** Of the last snapshot that was loaded. */
  loaded: Record<string, unknown> | undefined;
  /** Called with each request, such as `PATCH /vm`; what it returns is answered as a fault. */
  refuse: (request: string) => string | undefined = () => undefined;

  private constructor(options: StandInOptions) {
    this.#options = options;
    this.state = options.state;
    this.memory = options.memory;
    this.#server = createServer((request, response) => {
      void this.#answer(request).then(({ status, body }) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(body === undefined ? "" : JSON.stringify(body));
      });
    });
  }

  static async start(options: StandInOptions): Promise<FirecrackerStandIn> {
    const made = new FirecrackerStandIn(options);
    made.#server.listen(made.control);
    await once(made.#server, "listening");
    return made;
  }

  get control(): string {
    return join(this.#options.dir, "control");
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #answer(request: IncomingMessage): Promise<{ status: number; body?: unknown }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString("utf8");
    const what = `${request.method} ${request.url}`;
    const fault = this.#httpFault(request, what, text) ?? this.refuse(what) ?? this.#done(what, text);
    this.asked.push(fault === undefined ? `${what} ${this.state}` : `${what} refused`);
    return fault === undefined ? { status: 204 } : { status: 400, body: { fault_message: fault } };
  }

  /** Its server knows a length, and nothing of chunks. */
  #httpFault({ headers }: IncomingMessage, what: string, text: string): string | undefined {
    if (headers["transfer-encoding"] !== undefined) return "Unsupported header Transfer-Encoding";
    if (headers["content-length"] !== String(Buffer.byteLength(text))) return "no Content-Length";
    if (headers["content-type"] !== "application/json") return "Unsupported content type";
    const fields = bodies[what];
    return fields === undefined ? `Invalid request method and/or path: ${what}` : faultIn(JSON.parse(text), fields);
  }

  #done(what: string, text: string): string | undefined {
    const body = JSON.parse(text) as Record<string, unknown>;
    if (what === "PUT /snapshot/load") return this.#load(body);
    if (this.state === "Not started") return "The requested operation is not supported before starting the microVM.";
    if (what === "PUT /snapshot/create") return this.#create(body);
    if (what === "PATCH /vm") this.state = body["state"] === "Paused" ? "Paused" : "Running";
    return undefined;
  }

  #create(body: Record<string, unknown>): string | undefined {
    if (this.state !== "Paused") return "Cannot create a snapshot of a microVM that is not paused.";
    const memory = this.#outside(body["mem_file_path"]);
    // A file of another size is emptied first: what was reserved for it would be lost.
    if (statSync(memory).size !== this.memory.length) return "the memory's file was not reserved";
    writeFileSync(memory, this.memory, { flag: "r+" });
    writeFileSync(this.#outside(body["snapshot_path"]), devices);
    return undefined;
  }

  #load(body: Record<string, unknown>): string | undefined {
    if (this.state !== "Not started") return "The requested operation is not supported after starting the microVM.";
    const backend = body["mem_backend"] as { backend_path: string } | undefined;
    if ((backend === undefined) === (body["mem_file_path"] === undefined))
      return "exactly one of mem_backend and mem_file_path is needed";
    if (!readFileSync(this.#outside(body["snapshot_path"])).equals(devices)) return "Failed to restore from snapshot";
    this.memory = readFileSync(this.#outside(backend?.backend_path ?? body["mem_file_path"]));
    this.loaded = body;
    this.state = body["resume_vm"] === true ? "Running" : "Paused";
    return undefined;
  }

  #outside(path: unknown): string {
    return join(this.#options.dir, relative("/run", String(path)));
  }
}
