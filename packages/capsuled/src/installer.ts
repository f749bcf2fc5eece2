/** capsuled on an installer: wiring, nothing else. Its identity is of this boot only: it keeps nothing. */
import { existsSync } from "node:fs";
import { IdentityService, InstallService } from "@capsule/api";
import type { ConnectRouter } from "@connectrpc/connect";
import type { Logger } from "pino";
import { readBoot } from "./auth/boot.ts";
import { leewayS, maxLifetimeS } from "./auth/decide.ts";
import { Gate } from "./auth/gate.ts";
import { loadIdentity, shortId } from "./auth/identity.ts";
import { ReplayCache } from "./auth/replay.ts";
import { installerFile } from "./install/boot.ts";
import { Installer, type InstallState } from "./install/installer.ts";
import { type MediumDisk, openMedium } from "./install/medium.ts";
import { letGo } from "./install/perm.ts";
import { goDown } from "./server/capsule.ts";
import { identityService } from "./server/identity.ts";
import { installService } from "./server/install.ts";
import { installerOnly } from "./server/installer-only.ts";
import { startServer } from "./server/listener.ts";
import { reflection } from "./server/reflection.ts";
import { readBootDisk } from "./storage/substrate/disk.ts";
import { Store } from "./store/store.ts";
import { Announcer } from "./system/discovery/announcer.ts";
import { startFront } from "./system/front.ts";
import { applyHostname, openMachine } from "./system/machine.ts";
import { readTrustedKeys, trustedKeysDir } from "./update/trust.ts";

export function isInstaller(): boolean {
  return existsSync(installerFile);
}

/** Until capsuled is told to end. `/perm` is a directory in memory here. */
export async function serveInstaller(options: {
  readonly port: number;
  readonly authDir: string;
  readonly log: Logger;
}): Promise<never> {
  const { port, authDir, log } = options;
  const machine = { ...openMachine(), mode: "installer" };
  const store = new Store("/perm/state.db");
  const boot = readBoot(authDir);
  const identity = await loadIdentity(store, "/perm/tls");
  await applyHostname("");
  const replay = new ReplayCache({ dir: authDir, lifetimeS: maxLifetimeS + 2 * leewayS }, new Date());
  const gate = new Gate({ store, capsuleId: identity.capsuleId, boot, replay });
  await letGo();
  const medium = await openMedium(await readBootDisk(installerFile));
  const installer = new Installer(medium, await readTrustedKeys(trustedKeysDir), log);
  const services = [IdentityService, InstallService];
  const routes = (router: ConnectRouter): void => {
    router.service(IdentityService, identityService({ capsuleId: identity.capsuleId, gate, store, machine }));
    router.service(InstallService, installService({ installer, reboot: () => goDown("reboot", log) }));
    installerOnly.refuseOthers(router, services);
    reflection(router, services);
  };
  const guards = [installerOnly.guard(services)];
  const server = await startServer({ port, identity, gate, store, log, routes, guards });
  const others = await capsulesBeside(installer, medium, log);
  const short = shortId(identity.capsuleId);
  log.info({ port: server.port, capsuleId: identity.capsuleId, ...machine.version }, "the installer serves");
  startFront(
    () => ({
      title: "Installer",
      shortId: short,
      version: machine.version.version,
      port,
      fingerprint: identity.fingerprint,
      notices: noticesOf(installer.state, others, short, gate.claimSecondsLeft(), store.keys.list().length > 0),
      showLogs: true,
    }),
    log,
  );
  const announcer = new Announcer({
    port: server.port,
    facts: () => ({
      capsuleId: identity.capsuleId,
      shortId: short,
      hostname: machine.hostname(),
      adopted: store.keys.list().length > 0,
      version: machine.version.version,
      mode: machine.mode,
    }),
    isExcluded: () => false,
    log,
  });
  announcer.start();
  store.changes.subscribe(({ kind }) => {
    if (kind === "keys") announcer.refresh();
  });
  await Promise.race(
    (["SIGTERM", "SIGINT"] as const).map((name) => new Promise((resolve) => process.once(name, resolve))),
  );
  log.info("the installer stops");
  await announcer.stop();
  await server.stop(1_000);
  await letGo().catch((error: unknown) => log.warn({ err: error }, "the disk is still in use"));
  store.close();
  process.exit(0);
}

/** Paths of disks that have a capsule already. One that cannot be read is for the table of targets to say. */
async function capsulesBeside(installer: Installer, medium: MediumDisk, log: Logger): Promise<string[]> {
  const targets = await installer.targets().catch((error: unknown) => {
    log.warn({ err: error }, "the disks cannot be looked at");
    return [];
  });
  const capsules = targets.filter(({ contents, disk }) => contents.kind === "capsule" && disk.path !== medium.disk);
  return capsules.map(({ disk }) => disk.path);
}

/** What a person before the machine should know and do. */
function noticesOf(
  state: InstallState,
  capsules: readonly string[],
  id: string,
  claimS: number,
  isClaimed: boolean,
): string[] {
  if (state.kind === "installed")
    return [`Installed on ${state.path}. Take out the stick, and the machine starts from its disk.`];
  if (state.kind === "unfinished")
    return [`Installing to ${state.path}: until that is done, it does not start from there.`];
  const untouched = [
    "Started from a stick: no disk of this machine has been changed.",
    ...capsules.map((path) => `${path} has a capsule: without the stick the machine starts that.`),
  ];
  if (isClaimed) return [...untouched, "Somebody has begun to install; restart it to give it to another one."];
  if (claimS <= 0) return [...untouched, "Nobody came within 30 minutes: restart the machine to install."];
  return [
    ...untouched,
    `To put Capsule on its disk, on your machine: capsulectl install ${id}`,
    `For the next ${Math.ceil(claimS / 60)} min. Compare the SHA-256 with what that shows.`,
  ];
}
