/**
 * Loop devices that a capsule has set up: they are the kernel's and stay when its namespaces go. The kernel tells the
 * path of a backing file as it was inside, so they are found by device and inode, and those on files inside them as well.
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../run.ts";

type Loop = {
  readonly name: string;
  /** Number of the filesystem's device, and of the file in it, that it is a view of. */
  readonly place: string;
  readonly inode: number;
};

/** Where a capsule keeps files that become devices (packages/capsuled/src/storage/layout.ts). */
const poolsDir = "perm/pools";

/** Paths of the loop devices on a capsule's files, innermost first. */
export async function loopsOf(stateDir: string): Promise<string[]> {
  const all = await loops();
  const files = new Set<string>();
  const dir = join(stateDir, poolsDir);
  for (const name of await readdir(dir).catch(() => [])) {
    const seen = await stat(join(dir, name)).catch(() => undefined);
    if (seen !== undefined) files.add(`${seen.dev} ${seen.ino}`);
  }
  const found: Loop[] = all.filter(({ place, inode }) => files.has(`${devOf(place)} ${inode}`));
  // On a filesystem that is on a device found so far.
  for (const outer of found) {
    const number = `7:${/[0-9]+$/.exec(outer.name)?.[0]}`;
    found.push(...all.filter((one) => one.place === number && !found.includes(one)));
  }
  return found.map(({ name }) => name).reverse();
}

/** Tells them to go, and waits until they have: mounts of the namespace take a moment. */
export async function detachLoops(stateDir: string, timeoutMs = 5_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const left = await loopsOf(stateDir);
    if (left.length === 0 || Date.now() > deadline) return;
    for (const device of left) await run(["losetup", "-d", device]).catch(() => "");
    await sleep(50);
  }
}

async function loops(): Promise<Loop[]> {
  const text = await run(["losetup", "--json", "--output", "NAME,BACK-MAJ:MIN,BACK-INO"]).catch(() => "");
  if (text.trim() === "") return [];
  const { loopdevices } = JSON.parse(text) as {
    loopdevices: { name: string; "back-maj:min": string; "back-ino": number | string }[];
  };
  return loopdevices.map((one) => ({
    name: one.name,
    place: one["back-maj:min"].replaceAll(" ", ""),
    inode: Number(one["back-ino"]),
  }));
}

/** "major:minor" as stat(2) has it (makedev(3)). */
function devOf(place: string): number {
  const [major = 0n, minor = 0n] = place.split(":").map((part) => BigInt(part));
  return Number(((major & 0xfffn) << 8n) | (minor & 0xffn) | ((minor & ~0xffn) << 12n) | ((major & ~0xfffn) << 32n));
}
