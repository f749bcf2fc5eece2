/** From an instance to a machine that runs it: its record, its disks, its boot, and the payload in it. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Logger } from "pino";
import { consoleLog } from "../../logs/places.ts";
import type { ImageConfigs } from "../container/image-config.ts";
import type { InstanceLink } from "../driver.ts";
import type { BootFiles, Instance, MachineOptions } from "../instance.ts";
import type { AcceleratorProbe } from "./accelerator.ts";
import type { Agent } from "./agent.ts";
import type { MachineConfig, MicroVmBackend } from "./backends/backend.ts";
import { type BootOptions, bootMachine, untilAgent } from "./boot.ts";
import { translated } from "./errors.ts";
import { guestDir, runPaths } from "./layout.ts";
import { PayloadLog } from "./log-file.ts";
import { writeStarted } from "./machine.ts";
import { type MachineRecords, recordOf } from "./record.ts";
import type { RootDisks } from "./root-disks.ts";
import { guestSpecOf } from "./spec.ts";

export interface StartContext {
  readonly backend: MicroVmBackend;
  readonly configs: ImageConfigs;
  readonly roots: RootDisks;
  readonly accelerator: AcceleratorProbe;
  readonly records: MachineRecords;
  readonly workloadsDir: string;
  readonly log: Logger;
}

export interface Start {
  readonly instance: Instance;
  readonly machine: MachineOptions;
  readonly link: InstanceLink;
  readonly signal: AbortSignal;
}

type Bootable = Pick<MachineConfig, "kernel" | "initramfs" | "kernelArgs" | "disks">;

/** StartPayload: mounting, looking up, and the OCI runtime's own work, emulated; in milliseconds. */
const startPayloadMs = 120_000;

/**
 * Makes a machine and starts what is to run in it. Returns the connection to its agent; undefined for one that boots its own
 * kernel. Throws CapsuleError; what was made is still there then.
 */
export async function startMachine(context: StartContext, start: Start): Promise<Agent | undefined> {
  const { ownKernel } = start.machine;
  return ownKernel === undefined ? await startImage(context, start) : await startOwn(context, start, ownKernel);
}

async function startImage(context: StartContext, start: Start): Promise<Agent> {
  const { configs, roots, records } = context;
  const { instance, machine, signal } = start;
  const { uid, image } = instance;
  const config = await configs.get(image.digest, signal);
  const spec = guestSpecOf(instance, config);
  await records.put(recordOf(instance, machine, config.stopSignal));
  const prepared = performance.now();
  const root = await roots.ensureRoot(uid, image.digest, machine.diskBytes, signal);
  const rootMs = Math.round(performance.now() - prepared);
  const booting = await bootOptionsOf(context, start, {
    kernel: join(guestDir, "vmlinux"),
    initramfs: join(guestDir, "initramfs"),
    kernelArgs: [],
    disks: [{ path: root.path, readOnly: false }, ...disksOf(machine)],
  });
  const began = performance.now();
  await bootMachine(booting);
  const agent = await untilAgent(booting);
  context.log.info({ uid, rootMs, bootMs: Math.round(performance.now() - began) }, "a microVM has booted");
  try {
    await writeStarted(runPaths(uid), await startPayload(agent, start, spec, config.user));
  } catch (error) {
    agent.close();
    throw translated(error, "The payload could not be started");
  }
  return agent;
}

/** Of what happens in it nothing is known but its console: it counts as started when its monitor runs. */
async function startOwn(context: StartContext, start: Start, own: BootFiles): Promise<undefined> {
  const { instance, machine, link } = start;
  const { dir, kernel, initramfs, args } = own;
  await context.records.put(recordOf(instance, machine, undefined));
  const booting = await bootOptionsOf(context, start, {
    kernel: join(dir, kernel),
    initramfs: initramfs === undefined ? undefined : join(dir, initramfs),
    kernelArgs: [...toldToOwnKernel(instance, link), ...args],
    disks: disksOf(machine),
  });
  await bootMachine(booting);
  await writeStarted(runPaths(instance.uid), new Date());
}

async function bootOptionsOf(
  { backend, accelerator, workloadsDir }: StartContext,
  { instance, machine, link, signal }: Start,
  what: Bootable,
): Promise<BootOptions> {
  const { uid, limits } = instance;
  const paths = runPaths(uid);
  const config: MachineConfig = {
    uid,
    vcpus: machine.vcpus,
    memoryBytes: machine.memoryBytes,
    ...what,
    network: link.tap === undefined ? undefined : { tap: link.tap.name, mac: link.tap.mac },
    accelerator: await accelerator.get(),
    isRestored: false,
  };
  return {
    backend,
    config,
    paths,
    console: consoleLog(workloadsDir, uid),
    cpuMillis: limits.cpuMillis,
    connect: async () => await link.tap?.connect(),
    signal,
  };
}

function disksOf({ volumes }: MachineOptions): MachineConfig["disks"] {
  return volumes.map(({ path, readOnly }) => ({ path, readOnly }));
}

/**
 * Its first disk, and its network in the kernel's own form (Documentation/admin-guide/nfs/nfsroot.rst, `ip=`), which initramfs
 * tools read too. What the user says himself comes later and so wins.
 */
function toldToOwnKernel({ hostname }: Instance, { tap }: InstanceLink): string[] {
  const told = ["loglevel=6", "root=/dev/vda", "rw"];
  if (tap === undefined) return told;
  const [address = "", prefix = "0"] = tap.addresses.ipv4.split("/");
  const { gateway4 } = tap.addresses;
  return [...told, `ip=${address}::${gateway4}:${netmask(Number(prefix))}:${hostname}:eth0:off:${gateway4}`];
}

/** Such as 255.255.0.0 for 16. */
function netmask(prefix: number): string {
  const bits = prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 0xff).join(".");
}

async function startPayload(
  { client }: Agent,
  { instance, machine, link, signal }: Start,
  spec: Uint8Array<ArrayBuffer>,
  imageUser: string,
): Promise<Date> {
  const log = await PayloadLog.open(instance.logs);
  await log.close();
  const files = await Promise.all([...instance.files.values()].map((path) => readFile(path)));
  const { startedAt } = await client.startPayload(
    {
      now: timestampFromDate(new Date()),
      hostname: instance.hostname,
      ...(link.tap === undefined ? {} : { network: { ...link.tap.addresses, mtu: 0 } }),
      disks: [
        { readOnly: false, subPaths: [] },
        ...machine.volumes.map(({ readOnly, subPaths }) => ({ readOnly, subPaths: [...subPaths] })),
      ],
      files,
      user: instance.user ?? imageUser,
      ociConfig: spec,
      ...(log.last === undefined ? {} : { logAfter: log.last }),
    },
    { signal, timeoutMs: startPayloadMs },
  );
  return startedAt === undefined ? new Date() : timestampDate(startedAt);
}
