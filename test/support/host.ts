/** What a capsule under test runs on: namespaces of this host, or a virtual machine. The tests of the suite see only this. */
export interface Host {
  readonly runner: "namespace" | "qemu";
  /** On 127.0.0.1 of this host: leads to the API. */
  readonly port: number;
  /** Runs a command as root in the capsule, in all of its namespaces. Throws CommandError when it fails. */
  exec(argv: readonly string[], input?: string): Promise<string>;
  /** `HOST:PORT` of this host or a network that it made, where a TCP port of the capsule answers. */
  endpoint(port: number): Promise<string>;
  /** Everything dies at once. */
  cutPower(): Promise<void>;
  /** After `cutPower`, or when it went down by itself. */
  startAgain(): Promise<void>;
  /** Ordered, and nothing is left on this host but the state. */
  stop(): Promise<void>;
}
