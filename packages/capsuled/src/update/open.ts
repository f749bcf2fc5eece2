/** Updates of the machine that capsuled runs on. */
import { readFile } from "node:fs/promises";
import { uptime } from "node:os";
import { connect } from "node:tls";
import type { Logger } from "pino";
import { CapsuleError } from "../errors.ts";
import { openSlotDisk } from "./slots.ts";
import { type SlotRecord, UpdateStateFile, updateDir } from "./state.ts";
import { readTrustedKeys, trustedKeysDir } from "./trust.ts";
import { Updates } from "./updates.ts";

export type UpdatesOrReason =
  | { readonly updates: Updates }
  | { readonly updates: undefined; readonly whyNone: CapsuleError };

export function noSlots(): UpdatesOrReason {
  const message =
    "This capsule has no slots: it runs in a namespace, on the system of its host. It is updated by starting it from a newer build (`make up`).";
  return { updates: undefined, whyNone: new CapsuleError("precondition", message, { reason: "NO_SLOTS" }) };
}

/** To be called before anything opens the database. A disk that cannot be updated is no reason not to run. */
export async function openUpdates(databasePath: string, image: SlotRecord, log: Logger): Promise<UpdatesOrReason> {
  try {
    return { updates: await open(databasePath, image, log) };
  } catch (error) {
    log.error({ err: error }, "updates are not possible");
    const whyNone =
      error instanceof CapsuleError
        ? error
        : new CapsuleError("internal", "Updates are not possible: the log of capsuled tells why.", { cause: error });
    return { updates: undefined, whyNone };
  }
}

async function open(databasePath: string, image: SlotRecord, log: Logger): Promise<Updates> {
  const [disk, file, keys, bootId] = await Promise.all([
    openSlotDisk(),
    UpdateStateFile.open(updateDir),
    readTrustedKeys(trustedKeysDir),
    readFile("/proc/sys/kernel/random/boot_id", "utf8"),
  ]);
  return await Updates.open({
    disk,
    file,
    dir: updateDir,
    databasePath,
    image: { version: image.version, epoch: image.epoch },
    bootId: bootId.trim(),
    keys,
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    uptimeMs: () => uptime() * 1_000,
    log,
  });
}

/** Whether capsuled answers on its own port, as a stranger would see it. */
export async function apiAnswers(port: number): Promise<boolean> {
  const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false, minVersion: "TLSv1.3" });
  const { promise, resolve } = Promise.withResolvers<boolean>();
  socket.once("secureConnect", () => resolve(true));
  socket.once("error", () => resolve(false));
  socket.setTimeout(5_000, () => resolve(false));
  return await promise.finally(() => socket.destroy());
}
