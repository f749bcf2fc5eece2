/** Carries out one step of a plan. Each may be cut at any point and run again from there. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { CapsuleError } from "../errors.ts";
import { payloadLog } from "../logs/places.ts";
import type { Network } from "../network/network.ts";
import type { InstanceLink, RuntimeDriver } from "../runtime/driver.ts";
import type { ImageStore } from "../runtime/images.ts";
import type { InstanceDisk, InstanceMount } from "../runtime/instance.ts";
import { guestVolumes } from "../runtime/microvm/spec.ts";
import type { VolumeController } from "../storage/volumes/controller.ts";
import type { Store } from "../store/store.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import { instanceOf, type Prepared, settingsOf } from "../workload/instance.ts";
import { portsOf } from "../workload/manager.ts";
import { type OwnKernel, ownKernelOf } from "../workload/own-kernel.ts";
import { copyBootFiles } from "./boot-files.ts";
import type { Step } from "./planner.ts";

export interface StepContext {
  readonly record: WorkloadRecord;
  readonly driver: RuntimeDriver;
  readonly network: Network;
  readonly images: ImageStore;
  readonly volumes: VolumeController;
  readonly store: Store;
  readonly workloadsDir: string;
  readonly stopping: AbortSignal;
}

/** A start that takes longer hangs: it fails and is tried again. In milliseconds. */
const startTimeoutMs = 120_000;
const pauseTimeoutMs = 30_000;
/** Of a microVM, whose boot is watched by its driver: only a limit to everything. */
const machineTimeoutMs = 15 * 60_000;
/** Above the stop timeout of a workload: for SIGKILL and what follows it. */
const stopMarginMs = 30_000;

type Executable = Exclude<Step, { kind: "none" | "pull" }>;

export async function executeStep(step: Exclude<Step, { kind: "none" | "pull" }>, context: StepContext): Promise<void> {
  await executors[step.kind](step as never, context);
}

const executors: {
  [K in Executable["kind"]]: (step: Extract<Executable, { kind: K }>, context: StepContext) => Promise<void>;
} = {
  start,
  stop,
  pause: async (_, { record, driver, stopping }) =>
    await driver.pause(record.uid, withTimeout(stopping, pauseTimeoutMs)),
  resume: async (_, { record, driver, stopping }) =>
    await driver.resume(record.uid, withTimeout(stopping, pauseTimeoutMs)),
  remove,
  forget,
};

async function start(step: Extract<Step, { kind: "start" }>, context: StepContext): Promise<void> {
  const { record, driver, network, images, store, workloadsDir } = context;
  const { uid, name } = record;
  for (const { protocol, port } of portsOf(record.spec)) {
    if (await network.foreignHolder(protocol, port)) {
      throw new CapsuleError(
        "conflict",
        `port ${port}/${protocol} of the capsule is taken by a process that is not a workload`,
        {
          reason: "PORT_TAKEN",
          metadata: { port: String(port), protocol },
        },
      );
    }
  }
  const settings = settingsOf(record);
  const { hostname, network: mode, dns } = settings;
  if (mode === "bridge") store.transaction(() => network.addressesOf(uid));
  const files = await network.filesFor({ uid, name, hostname, network: mode, ...(dns === undefined ? {} : { dns }) });
  const { dir: logDir } = payloadLog(workloadsDir, uid);
  await mkdir(logDir, { recursive: true, mode: 0o750 });
  const reference = settings.image === "" ? "" : images.normalize(settings.image);
  const link: InstanceLink = {
    toProcess: async (pid) => {
      if (mode === "bridge") await network.link(uid, pid);
    },
    tap: mode === "bridge" ? network.tapOf(uid) : undefined,
  };
  const isMachine = record.spec.kind.case === "microVm";
  const storage = await storageFor(context);
  const instance = instanceOf(record, { image: { reference, digest: step.digest }, files, logDir, ...storage });
  const timeoutMs = isMachine ? machineTimeoutMs : startTimeoutMs;
  await driver.start(instance, link, withTimeout(context.stopping, timeoutMs));
}

type Storage = Pick<Prepared, "mounts" | "volumes" | "ownKernel">;

/** Readies the volumes of a workload, which it then holds. */
async function storageFor(context: StepContext): Promise<Storage> {
  const { record, workloadsDir } = context;
  const bootDir = join(workloadsDir, record.uid, "boot");
  const own = ownKernelOf(record.spec);
  if (own !== undefined) return await bootableFor(own, bootDir, context);
  await rm(bootDir, { recursive: true, force: true });
  return record.spec.kind.case === "microVm" ? await disksFor(context) : { mounts: await mountsFor(context) };
}

/** The kernel and initramfs of a machine that boots its own, read now from their volumes, and its root disk. */
async function bootableFor(own: OwnKernel, dir: string, { record, volumes }: StepContext): Promise<Storage> {
  const ownKernel = { ...(await copyBootFiles(own, dir, volumes)), args: own.args };
  const { uid: volumeUid, path } = await volumes.attachFor(record.uid, own.root, false);
  return { mounts: [], volumes: [{ volumeUid, path, readOnly: false, subPaths: [] }], ownKernel };
}

/** Attaches the workload's volumes, which it then holds: each is one disk, however often it is mounted inside. */
async function disksFor({ record, volumes }: StepContext): Promise<Storage> {
  const wanted = record.spec.kind.value?.mounts ?? [];
  const names = [...new Set(wanted.map(({ volumeName }) => volumeName))];
  const disks: InstanceDisk[] = [];
  for (const name of names) {
    const own = wanted.filter(({ volumeName }) => volumeName === name);
    const readOnly = own.every((mount) => mount.readOnly);
    const { uid: volumeUid, path } = await volumes.attachFor(record.uid, name, readOnly);
    // What is only read is not made; on a disk that is only read nothing can be, and what is missing is told.
    const subPaths = own.flatMap(({ subPath, readOnly: only }) =>
      subPath === "" || (only && !readOnly) ? [] : [subPath],
    );
    disks.push({ volumeUid, path, readOnly, subPaths });
  }
  const mounts = wanted.map(({ volumeName, subPath, mountPath, readOnly }) => ({
    source: join(guestVolumes, String(names.indexOf(volumeName)), subPath),
    target: mountPath,
    readOnly,
  }));
  return { mounts, volumes: disks };
}

/** Mounts the workload's volumes, which it then holds. */
async function mountsFor({ record, volumes }: StepContext): Promise<InstanceMount[]> {
  const wanted = record.spec.kind.value?.mounts ?? [];
  const sources = await volumes.mountFor(
    record.uid,
    wanted.map(({ volumeName, subPath, readOnly }) => ({ volume: volumeName, subPath, readOnly })),
  );
  return wanted.map(({ mountPath, readOnly }, i) => ({ source: sources[i] ?? "", target: mountPath, readOnly }));
}

async function stop(_: unknown, context: StepContext): Promise<void> {
  const { record, driver, stopping } = context;
  const { stopTimeoutMs, stopSignal } = settingsOf(record);
  const signal = withTimeout(stopping, stopTimeoutMs + stopMarginMs);
  await driver.stop(record.uid, { timeoutMs: stopTimeoutMs, stopSignal }, signal);
  // Stopped is told when what it wrote is on the disk.
  await context.volumes.release(record.uid);
}

async function remove(_: unknown, context: StepContext): Promise<void> {
  const { record, driver, network, stopping } = context;
  await stop(_, context);
  await driver.remove(record.uid, withTimeout(stopping, startTimeoutMs));
  await network.unlink(record.uid);
}

async function forget(_: unknown, context: StepContext): Promise<void> {
  const { record, network, store, workloadsDir } = context;
  await network.unlink(record.uid);
  await context.driver.remove(record.uid, withTimeout(context.stopping, startTimeoutMs)); // what a cut start may have left
  await network.removeFiles(record.uid);
  await rm(join(workloadsDir, record.uid), { recursive: true, force: true });
  store.transaction(() => {
    store.workloads.remove(record.uid);
    store.events.removeOf("workload", record.name);
  });
}

function withTimeout(signal: AbortSignal, ms: number): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(ms)]);
}
