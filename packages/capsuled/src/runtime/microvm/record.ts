/** What a microVM was made for: written before anything else of it is made, removed after everything else is gone. */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { writeDurably } from "../../durable.ts";
import type { AttachedVolume } from "../driver.ts";
import type { Instance, MachineOptions } from "../instance.ts";
import type { BackendName } from "./backends/backend.ts";
import type { LogLimits } from "./log-file.ts";

export interface MachineRecord {
  readonly uid: string;
  readonly name: string;
  readonly generation: number;
  readonly imageDigest: string;
  readonly backend: BackendName;
  readonly persistentRoot: boolean;
  /** The image's own; undefined: SIGTERM. */
  readonly stopSignal: string | undefined;
  /** Of the spec: what a command in it inherits. */
  readonly env: readonly (readonly [string, string])[];
  readonly workingDir: string | undefined;
  readonly logs: LogLimits;
  /** It boots its own kernel: nothing in it answers. */
  readonly ownKernel: boolean;
  /** In the order of its disks, after the root disk that is made of an image. */
  readonly volumes: readonly AttachedVolume[];
}

/** `stopSignal` is the image's. */
export function recordOf(instance: Instance, machine: MachineOptions, stopSignal: string | undefined): MachineRecord {
  const { uid, name, generation, image, env, workingDir, logs } = instance;
  return {
    uid,
    name,
    generation,
    imageDigest: image.digest,
    backend: machine.backend,
    persistentRoot: machine.persistentRoot,
    stopSignal,
    env: [...env],
    workingDir,
    logs,
    ownKernel: machine.ownKernel !== undefined,
    volumes: machine.volumes.map(({ volumeUid, readOnly }) => ({ uid: volumeUid, readOnly })),
  };
}

const fileName = "machine.json";

/** Records of all microVMs, in the directories of their workloads. */
export class MachineRecords {
  readonly #workloadsDir: string;

  constructor(workloadsDir: string) {
    this.#workloadsDir = workloadsDir;
  }

  has(uid: string): boolean {
    return existsSync(this.#path(uid));
  }

  async get(uid: string): Promise<MachineRecord | undefined> {
    const text = await readFile(this.#path(uid), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    return text === undefined ? undefined : (JSON.parse(text) as MachineRecord);
  }

  async list(): Promise<MachineRecord[]> {
    const records: MachineRecord[] = [];
    for (const uid of await readdir(this.#workloadsDir)) {
      const record = await this.get(uid);
      if (record !== undefined) records.push(record);
    }
    return records;
  }

  async put(record: MachineRecord): Promise<void> {
    await mkdir(join(this.#workloadsDir, record.uid), { recursive: true, mode: 0o750 });
    await writeDurably(this.#path(record.uid), `${JSON.stringify(record)}\n`, 0o640);
  }

  async remove(uid: string): Promise<void> {
    await rm(this.#path(uid), { force: true });
  }

  #path(uid: string): string {
    return join(this.#workloadsDir, uid, fileName);
  }
}
