/** CapsuleService: the machine itself. */
import { execFile } from "node:child_process";
import { arch, release, uptime } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { durationFromMs, timestampDate, timestampNow } from "@bufbuild/protobuf/wkt";
import { type CapsuleService, type MachineSpec, Phase } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Logger } from "pino";
import { type ServerIdentity, shortId } from "../auth/identity.ts";
import { CapsuleError } from "../errors.ts";
import type { PoolWatch } from "../storage/pool/watch.ts";
import type { StorageStatus } from "../storage/substrate/status.ts";
import type { Store } from "../store/store.ts";
import type { Support } from "../support/support.ts";
import type { Disk } from "../system/disks.ts";
import { initStatus, requestShutdown } from "../system/init.ts";
import { readSystemLogs } from "../system/logs.ts";
import type { Machine } from "../system/machine.ts";
import { ownAddresses, readFilesystems, readUsage } from "../system/usage.ts";
import { callOf } from "./call.ts";
import { type DebugServiceOptions, debugService } from "./debug.ts";
import { eventsOf } from "./events.ts";
import { metricsOf } from "./metrics.ts";
import { messageOfPool } from "./pool.ts";
import { intervalMs, ticks } from "./ticks.ts";

const run = promisify(execFile);
/** What only a machine has; a namespace has none of it. */
export interface Hardware {
  /** The slot that runs: "a" or "b". */
  readonly slot: string;
  /** What there is to say of updates, a line each. */
  updateWarnings(): string[];
  disks(): Promise<Disk[]>;
  /** Lines of the repair of /perm. */
  repairPerm(dryRun: boolean): AsyncIterable<string>;
}

/** Above this part of a disk in use, somebody must be told. */
const fullRatio = 0.9;
/** Lines of each service that are sorted in memory when nothing less was asked for. */
const mostLines = 20_000;
/** Between the answer and the going down, so that the caller gets it. In milliseconds. */
const farewellMs = 200;

export function capsuleService({
  identity,
  store,
  machine,
  storage,
  poolWatch,
  strangers,
  hardware,
  document,
  support,
  debug,
  log,
}: {
  readonly identity: ServerIdentity;
  readonly store: Store;
  readonly machine: Machine;
  readonly storage: StorageStatus;
  readonly poolWatch: PoolWatch;
  /** Disks of no volume, as POOL/NAME. */
  readonly strangers: () => readonly string[];
  readonly hardware: Hardware | undefined;
  readonly document: () => Pick<MachineSpec, "hostname">;
  /** It asks this service too, so it is made after it. */
  readonly support: () => Support;
  readonly debug: DebugServiceOptions;
  readonly log: Logger;
}): ServiceImpl<typeof CapsuleService> {
  return {
    ...debugService(debug),
    async getInfo() {
      const [pools, filesystems, init, versions, usage, disks] = await Promise.all([
        poolWatch.read(),
        readFilesystems(),
        initStatus().catch(() => undefined),
        componentVersions(),
        readUsage(),
        hardware?.disks() ?? [],
      ]);
      const full = filesystems.filter(({ sizeBytes, usedBytes }) => Number(usedBytes) > Number(sizeBytes) * fullRatio);
      const workloads = store.workloads.list();
      return {
        capsuleId: identity.capsuleId,
        shortId: shortId(identity.capsuleId),
        hostname: machine.hostname(),
        ...machine.version,
        mode: machine.mode,
        kernel: release(),
        architecture: arch() === "x64" ? "amd64" : arch(),
        uptime: durationFromMs(init?.uptimeMs ?? uptime() * 1000),
        time: timestampNow(),
        cpus: usage.cpus,
        memoryBytes: usage.memoryBytes,
        addresses: ownAddresses(),
        fingerprint: identity.fingerprint,
        componentVersions: versions,
        workloads: workloads.length,
        workloadsRunning: workloads.filter(({ status }) => status.phase === Phase.RUNNING).length,
        filesystems,
        pools: pools.map(messageOfPool),
        volumes: store.volumes.list().length,
        warnings: [
          ...(storage.state === "ready" ? [] : [storage.message]),
          ...(hardware?.updateWarnings() ?? []),
          ...full.map(
            ({ mountPath }) => `${mountPath} is nearly full: remove images (\`capsulectl image prune\`) or workloads`,
          ),
          ...pools.filter(({ message }) => message !== "").map(({ message }) => message),
          ...strangers().map((name) => `The disk ${name} belongs to no volume; it was left alone`),
          ...(debug.sessions.kept === undefined
            ? []
            : [
                `A debug container with all rights is kept (image ${debug.sessions.kept}): \`capsulectl capsule debug --end\` ends it`,
              ]),
          ...(init === undefined ? ["capsule-init does not answer"] : init.configFaults),
        ],
        services: (init?.services ?? []).map(({ name, state, pid, restarts }) => ({
          name,
          state,
          pid: pid ?? 0,
          restarts,
        })),
        slot: hardware?.slot ?? "",
        disks,
      };
    },
    async getMetrics() {
      const [usage, filesystems, pools] = await Promise.all([readUsage(), readFilesystems(), poolWatch.read()]);
      return await metricsOf({
        version: machine.version.version,
        mode: machine.mode,
        hostname: machine.hostname(),
        usage,
        filesystems,
        pools,
        volumes: store.volumes.list(),
        workloads: store.workloads.list(),
      });
    },
    async *systemLogs({ services, follow, tail, since }, context) {
      const options = {
        follow,
        tail: tail ?? (follow ? undefined : mostLines),
        since: since === undefined ? undefined : timestampDate(since),
      };
      for await (const lines of readSystemLogs(services, options, callOf(context).signal)) yield { lines };
    },
    async *systemEvents(wanted, context) {
      yield* eventsOf(store, { kinds: ["capsule", "pool"] }, wanted, callOf(context).signal);
    },
    async *systemStats({ interval }, context) {
      let before: { busyNanos: bigint; at: number } = { busyNanos: 0n, at: performance.now() - uptime() * 1000 };
      for await (const _ of ticks(intervalMs(interval), callOf(context).signal)) {
        const { busyNanos, ...usage } = await readUsage();
        const at = performance.now();
        const cpuMillis = Math.max(0, Math.round(Number(busyNanos - before.busyNanos) / 1_000 / (at - before.at)));
        before = { busyNanos, at };
        yield {
          ...usage,
          time: timestampNow(),
          cpuMillis,
          filesystems: await readFilesystems(),
          capsuledMemoryBytes: BigInt(process.memoryUsage.rss()),
        };
      }
    },
    async *supportBundle({ workloadLogs }, context) {
      for await (const output of support().bundle(workloadLogs, callOf(context).signal)) {
        if (output.kind === "progress") yield { output: { case: "progress" as const, value: output } };
        else if (output.kind === "data") yield { output: { case: "data" as const, value: output.data } };
        else {
          const { files, faults, sizeBytes } = output;
          const value = { files, faults: [...faults], sizeBytes: BigInt(sizeBytes) };
          yield { output: { case: "end" as const, value } };
        }
      }
    },
    async setHostname({ hostname }) {
      if (document().hostname !== "")
        throw new CapsuleError(
          "precondition",
          `The host name is in the machine's document ("${document().hostname}"): change it there (\`capsulectl machine get -o yaml\`).`,
          { reason: "SET_BY_MACHINE" },
        );
      await machine.setHostname(hostname);
      return {};
    },
    async *repairPerm({ dryRun }) {
      if (storage.repairable !== true || hardware === undefined) {
        const why = storage.state === "ready" ? "/perm is in use and has no damage that is known" : storage.message;
        throw new CapsuleError("precondition", `There is nothing to repair: ${why}`, { reason: "NOT_DAMAGED" });
      }
      for await (const text of hardware.repairPerm(dryRun)) yield { text };
    },
    async reboot() {
      await goDown("reboot", log);
      return {};
    },
    async shutdown() {
      await goDown("poweroff", log);
      return {};
    },
  };
}

/** Resolves when it is on its way; the caller's answer goes first. Throws when PID 1 does not answer. */
export async function goDown(kind: "reboot" | "poweroff", log: Logger): Promise<void> {
  await initStatus();
  sleep(farewellMs)
    .then(() => requestShutdown(kind))
    .catch((error: unknown) => log.error({ err: error }, `${kind} was not carried out`));
}

let versions: Promise<Record<string, string>> | undefined;

/** Versions of what Capsule stands on; they cannot change while it runs. */
function componentVersions(): Promise<Record<string, string>> {
  versions ??= (async () => {
    const tools: Record<string, readonly string[]> = {
      containerd: ["containerd", "--version"],
      crun: ["crun", "--version"],
      runc: ["runc", "--version"],
      nft: ["nft", "--version"],
    };
    const found: Record<string, string> = { node: process.versions.node, kernel: release() };
    for (const [name, [program = "", ...args]] of Object.entries(tools)) {
      const text = await run(program, args).then(
        ({ stdout }) => stdout,
        () => "",
      );
      const version = /[0-9]+\.[0-9]+(\.[0-9]+)?/.exec(text)?.[0];
      if (version !== undefined) found[name] = version;
    }
    return found;
  })();
  return versions;
}
