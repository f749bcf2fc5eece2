/**
 * Containers by containerd. A workload is a container record with the labels below, a snapshot and, while it runs or
 * until its end was seen, a task; all three have the workload's uid as their name. Each method may be cut between any two
 * calls: what is left is recognised by name the next time.
 */

import { existsSync } from "node:fs";
import type { Readable } from "node:stream";
import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import type { Logger } from "pino";
import { CapsuleError, messageOf } from "../../errors.ts";
import { type Mount, MountSchema } from "../../gen/containerd/github.com/containerd/containerd/api/types/mount_pb.js";
import { Status } from "../../gen/containerd/github.com/containerd/containerd/api/types/task/task_pb.js";
import { OptionsSchema } from "../../gen/containerd/github.com/containerd/containerd/runtime/v2/runc/options/oci_pb.js";
import {
  type ExecOptions,
  type ExecSession,
  type InstanceLink,
  isPaused,
  type Observed,
  type PathStat,
  type RuntimeDriver,
  type RuntimeStats,
  type StopOptions,
} from "../driver.ts";
import type { Instance } from "../instance.ts";
import { isAbandoned, removeAbandoned } from "./abandoned.ts";
import * as archive from "./archive.ts";
import { readStats } from "./cgroups.ts";
import {
  anyOf,
  type Containerd,
  isCode,
  jsonAny,
  orUndefined,
  runtimeWords,
  SNAPSHOTTER,
  translated,
} from "./client.ts";
import { startExec } from "./exec.ts";
import type { ImageConfig, ImageConfigs } from "./image-config.ts";
import { label, observedOf, stateOf } from "./observed.ts";
import { askShim } from "./shim.ts";
import { signalNumber } from "./signals.ts";
import { idRangeOf, SPEC_TYPE, specOf } from "./spec.ts";
import { shiftedMounts, shiftOwners } from "./user-namespace.ts";
import { readFromLayers, resolveUser } from "./users.ts";
import { watchTasks } from "./watch.ts";

const runtimeName = "io.containerd.runc.v2";

export interface ContainerDriverOptions {
  readonly client: Containerd;
  readonly configs: ImageConfigs;
  readonly log: Logger;
  /** OCI runtime: "crun" or "runc". */
  readonly runtime: string;
}

export class ContainerDriver implements RuntimeDriver {
  readonly #client: Containerd;
  readonly #configs: ImageConfigs;
  readonly #log: Logger;
  readonly #runtime: string;

  constructor({ client, configs, log, runtime }: ContainerDriverOptions) {
    this.#client = client;
    this.#configs = configs;
    this.#log = log;
    this.#runtime = runtime;
  }

  async list(signal?: AbortSignal): Promise<readonly Observed[]> {
    const options = signal === undefined ? {} : { signal };
    const [{ containers }, { tasks }] = await Promise.all([
      this.#client.containers.list({}, options),
      this.#client.tasks.list({}, options),
    ]);
    const byId = new Map(tasks.map((task) => [task.id, task]));
    return await Promise.all(containers.map(async (one) => observedOf(one, await stateOf(one.id, byId.get(one.id)))));
  }

  async observe(uid: string, signal?: AbortSignal): Promise<Observed | undefined> {
    const options = signal === undefined ? {} : { signal };
    const [found, task] = await Promise.all([
      orUndefined(this.#client.containers.get({ id: uid }, options)),
      orUndefined(this.#client.tasks.get({ containerId: uid }, options)),
    ]);
    if (found?.container === undefined) return undefined;
    return observedOf(found.container, await stateOf(uid, task?.process));
  }

  async start(instance: Instance, link: InstanceLink, signal: AbortSignal): Promise<void> {
    const { uid } = instance;
    try {
      const seen = await this.observe(uid, signal);
      if (seen?.task.state === "running" && seen.generation === instance.generation) return;
      await this.#deleteTask(uid);
      const before = seen?.generation === instance.generation ? await this.#wholeMountsOf(uid, signal) : undefined;
      const kept = before !== undefined;
      if (seen !== undefined && !kept) await this.remove(uid, signal);
      const mounts = before ?? (await this.#create(instance, signal));
      try {
        await this.#run(instance, mounts, link, signal);
      } catch (error) {
        // It has never run: nothing in it is worth keeping, and the next try may build it differently.
        if (!kept) await this.#tidy(uid);
        throw error;
      }
    } catch (error) {
      if (signal.aborted)
        throw new CapsuleError("timeout", `it was given up: ${String(signal.reason)}`, { cause: error });
      throw startError(error);
    }
  }

  async stop(uid: string, { timeoutMs, stopSignal }: StopOptions, signal: AbortSignal): Promise<void> {
    let seen = await this.observe(uid, signal);
    if (seen?.task.state === "paused") {
      // It takes no signal while it stands still.
      await this.resume(uid, signal);
      seen = await this.observe(uid, signal);
    }
    if (seen === undefined || seen.task.state === "none" || seen.task.state === "stopped") return;
    if (seen.task.state === "created") {
      // Created and never started: there is nothing to end in order.
      await this.#deleteTask(uid);
      return;
    }
    const labels = (await this.#client.containers.get({ id: uid }, { signal })).container?.labels;
    const number = signalNumber(stopSignal ?? labels?.[label.stopSignal] ?? "SIGTERM");
    const ended = this.#client.tasks.wait({ containerId: uid }, { signal }).then(
      () => true,
      (error: unknown) => {
        if (isCode(error, Code.NotFound)) return true;
        throw error;
      },
    );
    ended.catch(() => undefined); // awaited below, unless the kill fails first
    await this.#kill(uid, number, false);
    let timer: NodeJS.Timeout | undefined;
    const inTime = await Promise.race([
      ended,
      new Promise<false>((resolve) => {
        timer = setTimeout(() => resolve(false), timeoutMs);
      }),
    ]).finally(() => clearTimeout(timer));
    if (inTime) return;
    await this.#kill(uid, 9, true);
    await ended;
  }

  async pause(uid: string, signal: AbortSignal): Promise<void> {
    await this.#client.tasks.pause({ containerId: uid }, { signal });
  }

  async resume(uid: string, signal: AbortSignal): Promise<void> {
    await this.#client.tasks.resume({ containerId: uid }, { signal });
  }

  async remove(uid: string, signal: AbortSignal): Promise<void> {
    await this.#deleteTask(uid);
    await orUndefined(this.#client.containers.delete({ id: uid }, { signal }));
    await orUndefined(this.#client.snapshots.remove({ snapshotter: SNAPSHOTTER, key: uid }, { signal }));
  }

  onChange(listener: (uid: string) => void): void {
    watchTasks(this.#client, listener, this.#log);
  }

  async exec(uid: string, options: ExecOptions): Promise<ExecSession> {
    const running = this.#pidOf(uid);
    running.catch(() => undefined); // awaited below
    const [found, mounts] = await Promise.all([
      orUndefined(this.#client.containers.get({ id: uid })),
      options.user === undefined ? [] : orUndefined(this.#mountsOf(uid)),
    ]);
    // One that does not run is what is told, whatever else is missing of it.
    await running;
    const { container } = found ?? {};
    const spec = JSON.parse(new TextDecoder().decode(container?.spec?.value)) as Parameters<typeof startExec>[2];
    const user =
      options.user === undefined
        ? undefined
        : await resolveUser(options.user, (path) => readFromLayers(layersOf(mounts ?? []), path));
    return await startExec(this.#client, uid, spec, options, user);
  }

  async statPath(uid: string, path: string): Promise<PathStat | undefined> {
    return await archive.statPath(await this.#pidOf(uid), path);
  }

  async copyOut(uid: string, path: string, signal: AbortSignal): Promise<Readable> {
    return archive.copyOut(await this.#pidOf(uid), path, signal);
  }

  async copyIn(
    uid: string,
    path: string,
    { rename }: { readonly rename: string | undefined },
    data: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ bytes: bigint; entries: bigint }> {
    return await archive.copyIn(await this.#pidOf(uid), path, rename, data, signal);
  }

  async stats(uid: string): Promise<RuntimeStats | undefined> {
    const task = await orUndefined(this.#client.tasks.get({ containerId: uid }));
    const pid = task?.process?.status === Status.RUNNING ? task.process.pid : 0;
    return pid === 0 ? undefined : await readStats(uid, pid);
  }

  /** Snapshot and container record of an instance; returns the mounts of its root filesystem. */
  async #create(instance: Instance, signal: AbortSignal): Promise<Mount[]> {
    const { uid, image, rootDir } = instance;
    const config = rootDir === undefined ? await this.#configs.get(image.digest, signal) : noImage;
    const mounts =
      rootDir === undefined ? await this.#prepareSnapshot(uid, config.chainId, signal) : [directoryMount(rootDir)];
    const user = await resolveUser(instance.user ?? config.user, (path) => readFromLayers(layersOf(mounts), path));
    const ids = instance.container.userNamespace ? idRangeOf(uid) : undefined;
    if (ids !== undefined) await shiftOwners(uid, mounts, ids);
    const spec = specOf(instance, config, user, ids);
    await this.#client.containers.create(
      {
        container: {
          id: uid,
          image: image.reference,
          labels: {
            [label.name]: instance.name,
            [label.generation]: String(instance.generation),
            [label.imageDigest]: image.digest,
            ...(config.stopSignal === undefined ? {} : { [label.stopSignal]: config.stopSignal }),
          },
          runtime: { name: runtimeName, options: anyOf(OptionsSchema, { binaryName: this.#runtime }) },
          spec: jsonAny(SPEC_TYPE, spec),
          ...(rootDir === undefined ? { snapshotter: SNAPSHOTTER, snapshotKey: uid } : {}),
        },
      },
      { signal },
    );
    return mounts;
  }

  async #prepareSnapshot(uid: string, parent: string, signal: AbortSignal): Promise<Mount[]> {
    // Until the container record refers to it, the garbage collection must not take it.
    const request = {
      snapshotter: SNAPSHOTTER,
      key: uid,
      parent,
      labels: { "containerd.io/gc.root": new Date().toISOString() },
    };
    try {
      return (await this.#client.snapshots.prepare(request, { signal })).mounts;
    } catch (error) {
      // Left by a try that was cut before the container record.
      if (!isCode(error, Code.AlreadyExists)) throw error;
      await orUndefined(this.#client.snapshots.remove({ snapshotter: SNAPSHOTTER, key: uid }, { signal }));
      return (await this.#client.snapshots.prepare(request, { signal })).mounts;
    }
  }

  async #mountsOf(uid: string, signal?: AbortSignal): Promise<Mount[]> {
    const request = { snapshotter: SNAPSHOTTER, key: uid };
    return (await this.#client.snapshots.mounts(request, signal === undefined ? {} : { signal })).mounts;
  }

  /** Undefined when a power cut has taken the directory of a snapshot that containerd still knows, or the snapshot. */
  async #wholeMountsOf(uid: string, signal: AbortSignal): Promise<Mount[] | undefined> {
    const mounts = await orUndefined(this.#mountsOf(uid, signal));
    const upper = mounts?.[0]?.options.find((option) => option.startsWith("upperdir="))?.slice("upperdir=".length);
    return upper === undefined || existsSync(upper) ? mounts : undefined;
  }

  async #run(instance: Instance, mounts: Mount[], link: InstanceLink, signal: AbortSignal): Promise<void> {
    const { uid, logs } = instance;
    const query = new URLSearchParams({
      log: logs.dir,
      "max-bytes": String(logs.maxBytes),
      files: String(logs.maxFiles),
    });
    const output = `binary:///sbin/capsule-init?${query.toString()}`;
    const rootfs = instance.container.userNamespace ? shiftedMounts(mounts) : mounts;
    try {
      const task = { containerId: uid, rootfs, stdin: "", stdout: output, stderr: output, terminal: false };
      const { pid } = await askShim(uid, (options) => this.#client.tasks.create(task, options), signal);
      await link.toProcess(pid);
      await askShim(uid, (options) => this.#client.tasks.start({ containerId: uid, execId: "" }, options), signal);
    } catch (error) {
      await this.#deleteTask(uid).catch((second: unknown) => {
        this.#log.warn({ err: second, uid }, "what is left of a failed start is removed by the next one");
      });
      throw error;
    }
  }

  async #tidy(uid: string): Promise<void> {
    await this.remove(uid, AbortSignal.timeout(10_000)).catch((error: unknown) => {
      this.#log.warn({ err: error, uid }, "what is left of a failed start is removed by the next one");
    });
  }

  /** Ends a task by force, if it is there, and deletes it. */
  async #deleteTask(uid: string): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        await askShim(uid, (options) => this.#client.tasks.delete({ containerId: uid }, options));
        return;
      } catch (error) {
        if (isCode(error, Code.NotFound)) {
          if (isAbandoned(uid)) await removeAbandoned(uid);
          return;
        }
        // Still alive: containerd says FailedPrecondition, its shim "cannot delete a running process". Its end takes a moment.
        const lives = isCode(error, Code.FailedPrecondition) || /running process/.test(messageOf(error));
        if (!lives || attempt > 100) throw error;
        await this.#kill(uid, 9, true);
        await new Promise((resolve) => setTimeout(resolve, 20 + attempt));
      }
    }
  }

  /** A task that has ended meanwhile is as good as killed. */
  async #kill(uid: string, signal: number, all: boolean): Promise<void> {
    try {
      const what = { containerId: uid, execId: "", signal, all };
      await askShim(uid, (options) => this.#client.tasks.kill(what, options));
    } catch (error) {
      const text = error instanceof Error ? error.message : "";
      if (!isCode(error, Code.NotFound) && !/process already finished|not running/i.test(text)) throw error;
    }
  }

  async #pidOf(uid: string): Promise<number> {
    const task = await orUndefined(this.#client.tasks.get({ containerId: uid }));
    if (task?.process?.status === Status.RUNNING) return task.process.pid;
    if (task?.process?.status === Status.PAUSED) throw isPaused();
    if (task?.process?.status === Status.UNKNOWN)
      throw new CapsuleError("unavailable", "What looks after the container does not answer. Try again.", {
        reason: "SHIM_SILENT",
      });
    throw new CapsuleError("precondition", "The workload does not run. Start it first.", { reason: "NOT_RUNNING" });
  }
}

/** What a root without an image says of how it is run. */
const noImage: ImageConfig = {
  platform: "",
  entrypoint: [],
  cmd: [],
  env: [],
  user: "",
  workingDir: "",
  stopSignal: undefined,
  chainId: "",
  sizeBytes: 0n,
};

/** Not recursive: what is mounted below a directory of the capsule is its own. */
function directoryMount(source: string): Mount {
  return create(MountSchema, { type: "bind", source, options: ["bind", "ro"] });
}

/** Directories of an image's layers, topmost first, from the mounts of a snapshot made of them. */
export function layersOf(mounts: readonly Mount[]): string[] {
  const [mount] = mounts;
  if (mount === undefined) return [];
  const lower = mount.options.find((option) => option.startsWith("lowerdir="));
  return lower === undefined ? [mount.source] : lower.slice("lowerdir=".length).split(":");
}

function startError(error: unknown): CapsuleError {
  const said = runtimeWords(error);
  if (said === undefined || /no space left/i.test(said)) return translated(error, "containerd");
  return new CapsuleError("precondition", said, { cause: error, reason: "RUNTIME_REFUSED" });
}
