/** capsuled: wiring, nothing else. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { availableParallelism, totalmem, uptime } from "node:os";
import { setFlagsFromString } from "node:v8";
import {
  CapsuleService,
  EventType,
  IdentityService,
  ImageService,
  InstallService,
  MachineService,
  Phase,
  PoolService,
  UpdateService,
  VolumeService,
  WorkloadService,
} from "@capsule/api";
import { services } from "@capsule/api/clients.ts";
import type { ConnectRouter } from "@connectrpc/connect";
import { readBoot } from "./auth/boot.ts";
import { leewayS, maxLifetimeS } from "./auth/decide.ts";
import { Gate } from "./auth/gate.ts";
import { loadIdentity, shortId } from "./auth/identity.ts";
import { ReplayCache } from "./auth/replay.ts";
import { resetKeysIfAsked } from "./auth/reset.ts";
import { installerFile } from "./install/boot.ts";
import { isInstaller, serveInstaller } from "./installer.ts";
import { createLogger } from "./log.ts";
import { openMachineDocument } from "./machine/open.ts";
import { isWorkloadLink } from "./network/names.ts";
import { Network } from "./network/network.ts";
import { Pulls } from "./reconcile/pulls.ts";
import { Reconciler } from "./reconcile/reconciler.ts";
import { openContainerd } from "./runtime/container/index.ts";
import { RuntimeDrivers } from "./runtime/drivers.ts";
import { openMicroVms } from "./runtime/microvm/index.ts";
import { capsuleService, goDown, type Hardware } from "./server/capsule.ts";
import { identityService } from "./server/identity.ts";
import { imageService } from "./server/image.ts";
import { noInstaller } from "./server/install.ts";
import { startServer } from "./server/listener.ts";
import { machineService } from "./server/machine.ts";
import { ownApi } from "./server/own-api.ts";
import { poolService } from "./server/pool.ts";
import { reflection } from "./server/reflection.ts";
import { updateService } from "./server/update.ts";
import { volumeService } from "./server/volume.ts";
import { workloadService } from "./server/workload.ts";
import { openPools } from "./storage/pool/open.ts";
import { PoolWatch } from "./storage/pool/watch.ts";
import { readBootDisk } from "./storage/substrate/disk.ts";
import { repairFilesystem } from "./storage/substrate/repair.ts";
import { readStorageStatus } from "./storage/substrate/status.ts";
import { permDevice } from "./storage/substrate/substrate.ts";
import { VolumeController } from "./storage/volumes/controller.ts";
import { Exports } from "./storage/volumes/exports.ts";
import { ImageBases } from "./storage/volumes/image-bases.ts";
import { Imports } from "./storage/volumes/imports.ts";
import { VolumeManager } from "./storage/volumes/manager.ts";
import { Repairs } from "./storage/volumes/repairs.ts";
import { VolumeSessions } from "./storage/volumes/sessions.ts";
import { Snapshots } from "./storage/volumes/snapshots.ts";
import { Store } from "./store/store.ts";
import { Support } from "./support/support.ts";
import { DebugSessions } from "./system/debug/sessions.ts";
import { Announcer } from "./system/discovery/announcer.ts";
import { readDisks } from "./system/disks.ts";
import { startFront } from "./system/front.ts";
import { initStatus, requestConfirmed, requestShutdown } from "./system/init.ts";
import { openMachine } from "./system/machine.ts";
import { untilAccepts, untilExists } from "./system/ready.ts";
import { answeringGateway, hasAddress } from "./update/health.ts";
import { apiAnswers, noSlots, openUpdates } from "./update/open.ts";
import { WorkloadManager } from "./workload/manager.ts";

const port = Number(process.env["CAPSULE_PORT"] ?? 50_000);
const databasePath = "/perm/state.db";
const workloadsDir = "/perm/workloads";
const authDir = "/run/capsule/auth";
const containerdSocket = "/run/containerd/containerd.sock";
/** Made by whoever brings /perm up: the runner, or storage/substrate/main.ts. */
const permReadyFile = "/run/capsule/perm-ready";
/** Exists when the capsule itself goes down (capsule-init): then the workloads end too. */
const shutdownFile = "/run/capsule/shutdown";
/** capsule-init gives capsuled 45 s; workloads that want longer are cut. In milliseconds. */
const stopWorkloadsMs = 40_000;

/** How often root disks and bases that nobody needs are looked for; in milliseconds. */
const collectBasesMs = 10 * 60_000;

const log = createLogger();
/** Told when links, names or addresses of the machine were changed; nothing to do while capsuled starts. */
let networkChanged = (): void => undefined;
// Buffers of copies and logs count against the limit of V8's heap, which is small: without this each few megabytes of them
// have it collected whole.
setFlagsFromString("--external-memory-accounted-in-global-limit");
process.on("unhandledRejection", (error) => {
  // Nothing is known of the state then: PID 1 starts a new one, and no workload notices.
  log.fatal({ err: error }, "unhandled rejection");
  process.exit(1);
});

// Loading this program takes longer than making the disk ready: capsule-init starts both at once.
await untilExists(permReadyFile, installerFile);
if (isInstaller()) await serveInstaller({ port, authDir, log });
await mkdir("/perm/capsule", { recursive: true });
await mkdir(workloadsDir, { recursive: true });
const machine = openMachine();
const isNamespace = machine.mode === "namespace";
// Before the database is opened: it may be another one after an update that did not stay.
const slots = isNamespace ? noSlots() : await openUpdates(databasePath, machine.version, log);
const { updates } = slots;
const store = new Store(databasePath);
const boot = readBoot(authDir);
const identity = await loadIdentity(store, "/perm/tls");
if (boot.isFirst) await resetKeysIfAsked(store, "/perm/capsule/reset-keys", new Date(), log);
const replay = new ReplayCache({ dir: authDir, lifetimeS: maxLifetimeS + 2 * leewayS }, new Date());
const gate = new Gate({ store, capsuleId: identity.capsuleId, boot, replay });

const storage = readStorageStatus();
const network = new Network({ store, log, capsuleId: identity.capsuleId });
const document = openMachineDocument({
  store,
  isNamespace,
  workloadSubnets: () => network.workloadSubnets(),
  changed: () => networkChanged(),
  reverted: ({ generation, reason, time }) =>
    addOwnEvent(EventType.WARNING, "MachineReverted", `generation ${generation}: ${reason}`, time),
  log,
});
// Before the firewall is made, which has rules for the way out.
await document.start();
await network.start();
const containers = await openContainerd({ socket: containerdSocket, log });
const { images } = containers;
const pulls = new Pulls({ images, accessOf: (host) => store.registries.get(host) });
const pools = openPools();
const volumes = new VolumeController({ store, pools, log });
const bases = new ImageBases({ store, pools, images, reserve: (diskUid) => volumes.reserve(diskUid), log });
const machines = await openMicroVms({ configs: containers.configs, roots: bases, workloadsDir, log });
const driver = new RuntimeDrivers(containers.driver, machines);
const poolWatch = new PoolWatch({ store, pools, log });
const volumeManager = new VolumeManager({
  store,
  pools,
  refuseOvercommit: (pool, bytes) => poolWatch.refuseOvercommit(pool, bytes),
});
const snapshots = new Snapshots({
  store,
  pools,
  controller: volumes,
  log,
  whileFrozenIn: (workload, volume, work) => machines.withFrozen(workload, volume, work),
});
const exports = new Exports(snapshots, log);
const imports = new Imports({ store, pools, controller: volumes, manager: volumeManager, log });
const sessions = new VolumeSessions({ driver, controller: volumes, log });
const debugSessions = new DebugSessions({ driver, images, log });
const repairs = new Repairs({ store, pools, controller: volumes, snapshots });
const reconciler = new Reconciler({
  store,
  driver,
  images,
  network,
  volumes,
  isOthers: (uid) => sessions.has(uid) || debugSessions.has(uid),
  pulls,
  workloadsDir,
  log,
});
const manager = new WorkloadManager({
  store,
  images,
  volumes: volumeManager,
  machines: {
    vcpus: availableParallelism(),
    memoryMib: Math.floor(totalmem() / 1024 ** 2),
    unavailable: (backend) => machines.unavailable(backend),
  },
  allocate: (uid) => network.addressesOf(uid),
});
await volumes.start();
await poolWatch.start();
await sessions.start();
await debugSessions.start();

const hardware = isNamespace ? undefined : await openHardware();

const routes = (router: ConnectRouter): void => {
  router.service(IdentityService, identityService({ capsuleId: identity.capsuleId, gate, store, machine }));
  router.service(
    CapsuleService,
    capsuleService({
      identity,
      store,
      machine,
      storage,
      poolWatch,
      strangers: () => volumes.strangers,
      hardware,
      document: () => document.spec,
      support: () => support,
      debug: { sessions: debugSessions, driver },
      log,
    }),
  );
  router.service(WorkloadService, workloadService({ store, manager, driver, workloadsDir, storage }));
  router.service(
    VolumeService,
    volumeService({
      store,
      manager: volumeManager,
      controller: volumes,
      snapshots,
      exports,
      imports,
      repairs,
      sessions,
      driver,
      storage,
    }),
  );
  router.service(PoolService, poolService(poolWatch));
  router.service(
    UpdateService,
    updateService({
      slots,
      uptimeMs: () => uptime() * 1_000,
      reboot: () => goDown("reboot", log),
      defaults: () => document.spec.updates,
    }),
  );
  router.service(
    ImageService,
    imageService({ store, images, document: () => document.spec, changed: () => reconciler.retryFailed() }),
  );
  router.service(MachineService, machineService({ document, storage, hostname: machine.hostname }));
  router.service(InstallService, noInstaller());
  reflection(router, services);
};
const support = new Support({
  store,
  databasePath,
  workloadsDir,
  api: ownApi(routes, log),
  isNamespace,
  initStatus,
});
const server = await startServer({ port, identity, gate, store, log, routes });
log.info({ port: server.port, capsuleId: identity.capsuleId, ...machine.version }, "capsuled serves");
updates?.start({
  observe: async () => ({
    apiAnswers: await apiAnswers(server.port),
    storageIsReady: storage.state === "ready",
    hasAddress: hasAddress(),
    gateway: await answeringGateway(),
    workloads: store.workloads.list().map(({ name, desired, status }) => ({
      name,
      isWanted: desired === "running",
      isRunning: status.phase === Phase.RUNNING,
    })),
  }),
  confirmed: requestConfirmed,
  reboot: () => requestShutdown("reboot"),
  ended: ({ kind, version, reason, time }) => {
    addOwnEvent(
      kind === "confirmed" ? EventType.NORMAL : EventType.WARNING,
      `Update${kind.charAt(0).toUpperCase()}${kind.slice(1)}`,
      reason === "" ? version : `${version}: ${reason}`,
      new Date(time),
    );
  },
});
if (!isNamespace) {
  startFront(() => {
    const claimS = gate.claimSecondsLeft();
    const claim =
      claimS > 0 ? [`Nobody's yet. For the next ${Math.ceil(claimS / 60)} min: capsulectl adopt ADDRESS`] : [];
    const { notice = "", showLogs = true } = document.spec.console ?? {};
    const notices = [
      ...claim,
      ...(storage.state === "ready" ? [] : [storage.message]),
      ...notice.split("\n").filter((line) => line !== ""),
    ];
    return {
      shortId: shortId(identity.capsuleId),
      version: machine.version.version,
      port,
      fingerprint: identity.fingerprint,
      notices,
      showLogs,
    };
  }, log);
}
let isAdopted = store.keys.list().length > 0;
const announcer = new Announcer({
  port: server.port,
  facts: () => ({
    capsuleId: identity.capsuleId,
    shortId: shortId(identity.capsuleId),
    hostname: machine.hostname(),
    adopted: isAdopted,
    version: machine.version.version,
    mode: machine.mode,
  }),
  isExcluded: isWorkloadLink,
  log,
});
announcer.start();
networkChanged = () => {
  network.sync().catch((error: unknown) => log.error({ err: error }, "the firewall was not loaded"));
  announcer.refresh();
};
store.changes.subscribe(({ kind }) => {
  if (kind !== "keys") return;
  isAdopted = store.keys.list().length > 0;
  announcer.refresh();
});
// The API answers without it, and says of it that it is not there.
await untilAccepts(containerdSocket);
await reconciler.start();
snapshots.start();
const collectBases = (): void => {
  bases.collect().catch((error: unknown) => log.warn({ err: error }, "collecting root disks of microVMs failed"));
};
collectBases();
setInterval(collectBases, collectBasesMs).unref();

const stop = async (): Promise<void> => {
  const goingDown = existsSync(shutdownFile);
  log.info({ goingDown }, "capsuled stops");
  await announcer.stop();
  await document.stop();
  await server.stop(1_000);
  await updates?.stop();
  await debugSessions.stop({ goingDown });
  if (goingDown) await reconciler.stopWorkloads(new Date(Date.now() + stopWorkloadsMs));
  await reconciler.stop();
  machines.close();
  await snapshots.stop();
  poolWatch.stop();
  await Promise.all([exports.stop(), imports.stop(), sessions.stop()]);
  if (goingDown) await volumes.unmountAll();
  await volumes.stop();
  store.close();
  process.exit(0);
};
for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => {
    stop().catch((error: unknown) => {
      log.fatal({ err: error }, "stopping failed");
      process.exit(1);
    });
  });
}

/** An event of the capsule itself. */
function addOwnEvent(type: EventType, reason: string, message: string, time: Date): void {
  store.events.add({ objectKind: "capsule", objectName: machine.hostname(), type, reason, message, time });
}

async function openHardware(): Promise<Hardware> {
  const { disk, slot } = await readBootDisk();
  return {
    slot,
    updateWarnings: () => updates?.warnings() ?? [],
    disks: () => readDisks(disk),
    repairPerm: (dryRun) => repairFilesystem(permDevice, dryRun),
  };
}
