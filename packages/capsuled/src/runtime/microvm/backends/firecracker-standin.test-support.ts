/**
 * In Firecracker's place, for there is none here: its API as its documents and its sources tell it (docs/api_requests,
 * docs/snapshotting), and strict: what it would not take, this does not take either. It runs no machine.
 */
import { once } from "node:events";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
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
  /** Names of its interfaces; none when it is not said. */
  readonly interfaces?: readonly string[];
}

/** What its API says of itself. */
const version = { vmm_version: "1.16.1", app_name: "Firecracker" };

/** State of the devices, in a snapshot: what has to be so again where it is loaded. */
interface Devices {
  readonly memoryBytes: number;
  readonly interfaces: readonly string[];
}
const notBefore = "The requested operation is not supported before starting the microVM.";
const notAfter = "The requested operation is not supported after starting the microVM.";

export class FirecrackerStandIn {
  readonly #options: StandInOptions;
  readonly #server: Server;
  state: State;
  memory: Buffer;
  #interfaces: readonly string[];
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
    this.#interfaces = options.interfaces ?? [];
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

  /** Takes its requests one by one, as Firecracker does. */
  async #answer(request: IncomingMessage): Promise<{ status: number; body?: unknown }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString("utf8");
    const what = `${request.method} ${request.url}`;
    if (what === "GET /" && text === "") return { status: 200, body: { id: "one", state: this.state, ...version } };
    const fault = this.#httpFault(request, what, text) ?? this.refuse(what) ?? this.#done(what, text);
    this.asked.push(fault === undefined ? `${what} ${this.state}` : `${what} refused`);
    return fault === undefined ? { status: 204 } : { status: 400, body: { fault_message: fault } };
  }

  /** Its server knows a length, and nothing of chunks. */
  #httpFault({ headers }: IncomingMessage, what: string, text: string): string | undefined {
    if (headers["transfer-encoding"] !== undefined) return "Unsupported header Transfer-Encoding";
    if (headers["content-length"] !== String(Buffer.byteLength(text))) return "no Content-Length";
    if (headers["content-type"] !== "application/json") return "Unsupported content type";
    const fields = Object.hasOwn(bodies, what) ? bodies[what] : undefined;
    if (fields === undefined) return `Invalid request method and/or path: ${what}`;
    const body = parsed(text);
    return body === undefined ? "An error occurred when deserializing the json body" : faultIn(body, fields);
  }

  #done(what: string, text: string): string | undefined {
    const body = JSON.parse(text) as Record<string, unknown>;
    if (what === "PUT /snapshot/load") return this.#load(body);
    if (what === "PUT /actions" && body["action_type"] === "InstanceStart")
      return this.state === "Not started" ? "Cannot start microvm without kernel configuration." : notAfter;
    if (this.state === "Not started") return notBefore;
    if (what === "PUT /actions" && body["action_type"] === "FlushMetrics") return "Metrics are not configured.";
    if (what === "PUT /snapshot/create") return this.#create(body);
    if (what === "PATCH /vm") this.state = body["state"] === "Paused" ? "Paused" : "Running";
    return undefined;
  }

  #create(body: Record<string, unknown>): string | undefined {
    if (this.state !== "Paused") return "Cannot create a snapshot of a microVM that is not paused.";
    if (body["snapshot_type"] === "Diff") return "Diff snapshots need track_dirty_pages";
    const [memory, state] = [this.#outside(body["mem_file_path"]), this.#outside(body["snapshot_path"])];
    if (memory === undefined || state === undefined) return "Permission denied";
    // A file of another size is emptied first: what was reserved for it would be lost.
    if (!existsSync(memory) || statSync(memory).size !== this.memory.length)
      return "the memory's file was not reserved";
    writeFileSync(memory, this.memory, { flag: "r+" });
    const devices: Devices = { memoryBytes: this.memory.length, interfaces: this.#interfaces };
    writeFileSync(state, JSON.stringify(devices));
    return undefined;
  }

  #load(body: Record<string, unknown>): string | undefined {
    if (this.state !== "Not started") return notAfter;
    const backend = body["mem_backend"] as { backend_type: string; backend_path: string } | undefined;
    if ((backend === undefined) === (body["mem_file_path"] === undefined))
      return "exactly one of mem_backend and mem_file_path is needed";
    if (backend?.backend_type === "Uffd") return "nobody handles its page faults";
    const state = this.#outside(body["snapshot_path"]);
    const memory = this.#outside(backend?.backend_path ?? body["mem_file_path"]);
    if (state === undefined || memory === undefined || !existsSync(state) || !existsSync(memory))
      return "Failed to open snapshot file: No such file or directory";
    const devices = parsed(readFileSync(state, "utf8")) as Devices | undefined;
    if (devices === undefined) return "Failed to restore from snapshot: Failed to get snapshot state from file";
    const content = readFileSync(memory);
    if (content.length !== devices.memoryBytes) return "Failed to load guest memory: the file has another size";
    const overridden = (body["network_overrides"] ?? []) as readonly { readonly iface_id: string }[];
    const unknown = overridden.find(({ iface_id }) => !devices.interfaces.includes(iface_id));
    if (unknown !== undefined) return `Unknown Network Device: ${unknown.iface_id}`;
    this.memory = content;
    this.#interfaces = devices.interfaces;
    this.loaded = body;
    this.state = body["resume_vm"] === true ? "Running" : "Paused";
    return undefined;
  }

  /** Undefined for a path that its jail does not let it write to. */
  #outside(path: unknown): string | undefined {
    const name = relative("/run", String(path));
    return name === "" || name.includes("/") || name === ".." ? undefined : join(this.#options.dir, name);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
