/**
 * Memory and devices of a QEMU machine as a stream of bytes, by QEMU's own migration over a Unix socket
 * (https://www.qemu.org/docs/master/devel/migration/main.html): QEMU opens no file, and where the bytes go is no business of
 * it. Its disks are not in it.
 */
import { once } from "node:events";
import { chown, rm, stat } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunPaths } from "../layout.ts";
import { qmp } from "./qmp.ts";

type Sockets = Pick<RunPaths, "sockets" | "control">;

/** Name of the socket that a machine to be restored listens on, beside its others. */
export const incoming = "incoming";
const outgoing = "outgoing";
/** Status of a machine that has no state yet. */
const waiting = "inmigrate";
const pollMs = 20;
/** As fast as it can: its machine stands still meanwhile. Bytes a second. */
const maxBandwidth = 64 * 1024 ** 3;

/** As `MachineStates.save`. `inside`: the directory of its sockets as QEMU sees it. Throws with QEMU's words. */
export async function saveState(
  { sockets, control }: Sockets,
  inside: string,
  to: Writable,
  atRest: () => Promise<void>,
): Promise<void> {
  try {
    const server = await listen(sockets);
    try {
      await whileStopped(control, async () => {
        const written = once(server, "connection").then(async ([socket]) => await pipeline(socket as Socket, to));
        await qmp(control, "migrate-set-parameters", { "max-bandwidth": maxBandwidth });
        await qmp(control, "migrate", { uri: `unix:${join(inside, outgoing)}` });
        // What QEMU says of a failure tells more than the end of the stream.
        const [saved, read] = await Promise.allSettled([untilSaved(control), written]);
        if (saved.status === "rejected") throw saved.reason;
        if (read.status === "rejected") throw read.reason;
        await atRest();
      });
    } finally {
      server.close();
      await rm(join(sockets, outgoing), { force: true });
    }
  } catch (error) {
    to.destroy();
    throw error;
  }
}

async function whileStopped(control: string, work: () => Promise<void>): Promise<void> {
  try {
    await qmp(control, "stop");
    await work();
  } catch (error) {
    // What went wrong first tells more.
    await qmp(control, "migrate_cancel").catch(() => undefined);
    await qmp(control, "cont").catch(() => undefined);
    throw error;
  }
  await qmp(control, "cont");
}

/** As `MachineStates.restore`. */
export async function restoreState({ sockets, control }: Sockets, from: Readable): Promise<void> {
  try {
    // Whoever answers has made all its sockets: the one for the state is the last.
    const status = await statusOf(control);
    if (status !== waiting) throw new Error(`QEMU waits for no state: its machine is ${status}`);
    await giveState({ sockets, control }, from);
  } finally {
    from.destroy();
  }
  await qmp(control, "cont");
}

async function giveState({ sockets, control }: Sockets, from: Readable): Promise<void> {
  const socket = connect(join(sockets, incoming));
  await once(socket, "connect");
  // QEMU closes when it has read the last byte, which may be before that is known to be written: no fault of its own.
  const fault = await pipeline(from, socket).catch((error: unknown) => error);
  try {
    while ((await statusOf(control)) === waiting) await sleep(pollMs);
  } catch (error) {
    // It has ended, as it does with a state that it cannot take.
    throw fault ?? error;
  }
}

async function statusOf(control: string): Promise<string> {
  return ((await qmp(control, "query-status")) as { status: string }).status;
}

async function listen(sockets: string): Promise<Server> {
  const path = join(sockets, outgoing);
  await rm(path, { force: true });
  const server = createServer().listen(path);
  await once(server, "listening");
  // The machine's own user connects.
  const { uid, gid } = await stat(sockets);
  await chown(path, uid, gid);
  return server;
}

async function untilSaved(control: string): Promise<void> {
  for (;;) {
    const found = (await qmp(control, "query-migrate")) as { status?: string; "error-desc"?: string };
    if (found.status === "completed") return;
    if (found.status === "failed" || found.status === "cancelled")
      throw new Error(`QEMU, migrate: ${found["error-desc"] ?? found.status}`);
    await sleep(pollMs);
  }
}
