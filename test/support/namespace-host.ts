import { type Capsule, startCapsule } from "../../image/namespace/capsule.ts";
import type { Host } from "./host.ts";

export class NamespaceHost implements Host {
  readonly runner = "namespace";
  readonly #options: { readonly name: string; readonly stateDir: string };
  capsule: Capsule;

  private constructor(options: { name: string; stateDir: string }, capsule: Capsule) {
    this.#options = options;
    this.capsule = capsule;
  }

  static async start(options: { name: string; stateDir: string }): Promise<NamespaceHost> {
    return new NamespaceHost(options, await startCapsule(options));
  }

  get port(): number {
    return this.capsule.port;
  }

  async exec(argv: readonly string[], input?: string): Promise<string> {
    return await this.capsule.exec(argv, input);
  }

  async endpoint(port: number): Promise<string> {
    return `${this.capsule.address}:${port}`;
  }

  async cutPower(): Promise<void> {
    await this.capsule.kill();
  }

  async startAgain(): Promise<void> {
    this.capsule = await startCapsule({ ...this.#options, port: this.port });
  }

  async stop(): Promise<void> {
    await this.capsule.stop();
  }
}
