/**
 * Images and power cuts. containerd 1.7 syncs its database and its blobs, and not what it has unpacked: after a cut it
 * would take files that are empty for whole ones, and every container of the image would end at once
 * (docs/decisions.md). So an image has a label until everything of it is on the disk. One that still has it after a
 * boot was promised to nobody, and goes with all that was unpacked for it.
 */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Logger } from "pino";
import { runTool } from "../../tool.ts";
import { type Containerd, orUndefined } from "./client.ts";

const label = "capsule.unsettled";
/** For images that are being made. */
export const unsettledLabels: Readonly<Record<string, string>> = { [label]: "1" };

const imagesDir = "/perm/containerd";
/** Gigabytes to a slow disk. */
const syncTimeoutMs = 30 * 60_000;
/** Gone with each boot. */
const checkedFile = "/run/capsule/images-checked";

/** Returns when all of these images is on the disk; they may be promised then. */
export async function settle(client: Containerd, names: readonly string[]): Promise<void> {
  await runTool(["sync", "-f", imagesDir], "", syncTimeoutMs);
  for (const name of names) {
    const image = (await orUndefined(client.images.get({ name })))?.image;
    if (image?.labels[label] === undefined) continue;
    const { [label]: _, ...labels } = image.labels;
    await orUndefined(client.images.update({ image: { ...image, labels }, updateMask: { paths: ["labels"] } }));
  }
}

/** At a start of capsuled, before anything is made: deals with what the one before has not settled. */
export async function settleLeftovers(client: Containerd, log: Logger): Promise<void> {
  const { images } = await client.images.list({});
  const names = images.filter(({ labels }) => labels[label] !== undefined).map(({ name }) => name);
  if (existsSync(checkedFile)) {
    if (names.length > 0) await settle(client, names);
    return;
  }
  for (const name of names) {
    log.warn({ image: name }, "removing an image that was not whole on the disk before the machine went down");
    await orUndefined(client.images.delete({ name }));
  }
  // Of pulls and imports that the cut has ended: they hold what was unpacked, and the next try would take it for whole.
  const { leases } = await client.leases.list({});
  for (const [i, { id }] of leases.entries())
    await orUndefined(client.leases.delete({ id, sync: i === leases.length - 1 }));
  await mkdir(dirname(checkedFile), { recursive: true });
  await writeFile(checkedFile, "");
}
