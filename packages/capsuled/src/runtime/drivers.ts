/**
 * The drivers of all kinds as one. A workload belongs to the driver that has something of it; one whose kind was changed is
 * removed from the former before the latter starts it, for its generation is another.
 */
import type { Readable } from "node:stream";
import type {
  ExecOptions,
  ExecSession,
  InstanceLink,
  Observed,
  PathStat,
  RuntimeDriver,
  RuntimeStats,
  StopOptions,
} from "./driver.ts";
import type { Instance } from "./instance.ts";
import type { MicroVmDriver } from "./microvm/driver.ts";

export class RuntimeDrivers implements RuntimeDriver {
  readonly #containers: RuntimeDriver;
  readonly #machines: MicroVmDriver;

  constructor(containers: RuntimeDriver, machines: MicroVmDriver) {
    this.#containers = containers;
    this.#machines = machines;
  }

  async list(signal?: AbortSignal): Promise<readonly Observed[]> {
    return (await Promise.all([this.#containers.list(signal), this.#machines.list()])).flat();
  }

  async observe(uid: string, signal?: AbortSignal): Promise<Observed | undefined> {
    return await this.#of(uid).observe(uid, signal);
  }

  async start(instance: Instance, link: InstanceLink, signal: AbortSignal): Promise<void> {
    await (instance.machine === undefined ? this.#containers : this.#machines).start(instance, link, signal);
  }

  async stop(uid: string, options: StopOptions, signal: AbortSignal): Promise<void> {
    await this.#of(uid).stop(uid, options, signal);
  }

  async pause(uid: string, signal: AbortSignal): Promise<void> {
    await this.#of(uid).pause(uid, signal);
  }

  async resume(uid: string, signal: AbortSignal): Promise<void> {
    await this.#of(uid).resume(uid, signal);
  }

  async remove(uid: string, signal: AbortSignal): Promise<void> {
    await this.#machines.remove(uid);
    await this.#containers.remove(uid, signal);
  }

  onChange(listener: (uid: string) => void): void {
    this.#containers.onChange(listener);
    this.#machines.onChange(listener);
  }

  async exec(uid: string, options: ExecOptions): Promise<ExecSession> {
    return await this.#of(uid).exec(uid, options);
  }

  async statPath(uid: string, path: string): Promise<PathStat | undefined> {
    return await this.#of(uid).statPath(uid, path);
  }

  async copyOut(uid: string, path: string, signal: AbortSignal): Promise<Readable> {
    return await this.#of(uid).copyOut(uid, path, signal);
  }

  async copyIn(
    uid: string,
    path: string,
    options: { readonly rename: string | undefined },
    data: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ bytes: bigint; entries: bigint }> {
    return await this.#of(uid).copyIn(uid, path, options, data, signal);
  }

  async stats(uid: string): Promise<RuntimeStats | undefined> {
    return await this.#of(uid).stats(uid);
  }

  #of(uid: string): RuntimeDriver {
    return this.#machines.has(uid) ? this.#machines : this.#containers;
  }
}
