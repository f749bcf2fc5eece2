/**
 * Work inside a volume that no workload uses: a shell, a copy. Each has a container of its own, with the capsule's own root
 * filesystem, read-only and without what is mounted in it, no network, and the volume at /mnt. It is a mounter as any
 * other: a workload that wants the volume meanwhile is told so and waits. After a kill of capsuled the containers belong
 * to nobody and go.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { RuntimeDriver } from "../../runtime/driver.ts";
import type { Instance } from "../../runtime/instance.ts";
import { newUid } from "../../store/uid.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import type { VolumeController } from "./controller.ts";
import { inUse } from "./snapshots.ts";

const sessionsDir = "/run/capsule/sessions";
const startTimeoutMs = 60_000;
const maxSessions = 32;
/** Where the volume is in the container. */
export const mountPath = "/mnt";

export interface VolumeSessionsOptions {
  readonly driver: RuntimeDriver;
  readonly controller: VolumeController;
  readonly log: Logger;
}

export class VolumeSessions {
  readonly #options: VolumeSessionsOptions;
  readonly #live = new Set<string>();

  constructor(options: VolumeSessionsOptions) {
    this.#options = options;
  }

  /** Removes what a killed capsuled has left; its containers are removed with all that belong to nobody. */
  async start(): Promise<void> {
    await rm(sessionsDir, { recursive: true, force: true });
  }

  /** Whether an instance is one of these. */
  has(uid: string): boolean {
    return this.#live.has(uid);
  }

  /**
   * Calls `work` with the uid of a running container that has the volume at /mnt; it is gone when this resolves. `what` is
   * said to those who want the volume meanwhile. Throws `precondition` while somebody uses it.
   */
  async *run<T>(
    volume: VolumeRecord,
    { what, readOnly }: { readonly what: string; readonly readOnly: boolean },
    work: (uid: string) => AsyncIterable<T>,
  ): AsyncGenerator<T> {
    if (this.#live.size >= maxSessions)
      throw new CapsuleError("exhausted", `${maxSessions} shells and copies of volumes are open, the most at once.`);
    const uid = newUid("t");
    this.#live.add(uid);
    // Two of a kind at once are two holders.
    const holder = `${what} (${uid})`;
    try {
      await this.#start(uid, holder, volume, readOnly);
      yield* work(uid);
    } finally {
      await this.#end(uid, holder, volume);
    }
  }

  /** As `run`, for work with one result. */
  async call<T>(
    volume: VolumeRecord,
    options: { readonly what: string; readonly readOnly: boolean },
    work: (uid: string) => Promise<T>,
  ): Promise<T> {
    const once = async function* (uid: string): AsyncGenerator<T> {
      yield await work(uid);
    };
    for await (const result of this.run(volume, options, once)) return result;
    throw new CapsuleError("internal", "the work in the volume had no result");
  }

  async stop(): Promise<void> {
    const { driver } = this.#options;
    await Promise.all(
      [...this.#live].map((uid) => driver.remove(uid, AbortSignal.timeout(5_000)).catch(() => undefined)),
    );
  }

  async #start(uid: string, holder: string, volume: VolumeRecord, readOnly: boolean): Promise<void> {
    const { driver, controller } = this.#options;
    const source = await controller.exclusive(volume.uid, async () => {
      const holders = controller.holdersOf(volume.uid);
      if (holders.length > 0) throw inUse(volume.name, holders, ", or use `workload exec` and `cp` with it");
      controller.hold(volume.uid, holder);
      return await controller.mount(volume.uid);
    });
    const dir = join(sessionsDir, uid);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const instance = instanceOf(uid, volume.name, { source, readOnly, logDir: dir });
    await driver.start(
      instance,
      { toProcess: async () => undefined, tap: undefined },
      AbortSignal.timeout(startTimeoutMs),
    );
  }

  async #end(uid: string, holder: string, volume: VolumeRecord): Promise<void> {
    const { driver, controller, log } = this.#options;
    try {
      await driver.remove(uid, AbortSignal.timeout(startTimeoutMs));
      await rm(join(sessionsDir, uid), { recursive: true, force: true });
    } catch (error) {
      log.warn({ err: error, uid, volume: volume.name }, "the container of a session is removed later");
    } finally {
      this.#live.delete(uid);
      await controller.releaseVolume(volume.uid, holder);
    }
  }
}

function instanceOf(
  uid: string,
  volume: string,
  { source, readOnly, logDir }: { readonly source: string; readonly readOnly: boolean; readonly logDir: string },
): Instance {
  return {
    uid,
    name: `volume ${volume}`,
    generation: 1,
    image: { reference: "capsule", digest: "" },
    rootDir: "/",
    command: ["/bin/sh", "-c", "trap exit TERM; tail -f /dev/null & wait"],
    args: [],
    env: new Map(),
    workingDir: mountPath,
    user: undefined,
    hostname: volume.slice(0, 63),
    network: "none",
    limits: { cpuMillis: 0, memoryBytes: 0, pidsMax: 1_024 },
    stopSignal: undefined,
    files: new Map(),
    mounts: [{ source, target: mountPath, readOnly }],
    logs: { dir: logDir, maxBytes: 65_536, maxFiles: 1 },
    container: {
      addCapabilities: [],
      dropCapabilities: [],
      readOnlyRoot: true,
      sysctls: new Map(),
      userNamespace: false,
      privileged: false,
      tmpfs: [{ target: "/tmp", sizeBytes: 64 * 1024 ** 2 }],
      shmBytes: 1024 ** 2,
      sharesMachine: false,
      init: false,
    },
  };
}
