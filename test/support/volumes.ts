/** What tests of volumes ask of a capsule again and again. */
import type { TestCapsule } from "./test-capsule.ts";

export interface VolumeJson {
  readonly spec: { readonly name: string; readonly sizeBytes: string };
  readonly status: { readonly phase: string; readonly message: string; readonly sizeBytes: string };
}

/** All volumes by name. */
export async function volumesOf(capsule: TestCapsule): Promise<Map<string, VolumeJson>> {
  const text = await capsule.ctl(["volume", "list", "-o", "json"]);
  const { volumes } = JSON.parse(text) as { volumes: VolumeJson[] };
  return new Map(volumes.map((volume) => [volume.spec.name, volume]));
}

export async function snapshotsOf(capsule: TestCapsule, volume: string): Promise<string[]> {
  const text = await capsule.ctl(["volume", "snapshots", volume, "-o", "json"]);
  return (JSON.parse(text) as { snapshots: { name: string }[] }).snapshots.map(({ name }) => name);
}

export interface PoolJson {
  readonly sizeBytes: string;
  readonly usedBytes: string;
  readonly promisedBytes: string;
  readonly message: string;
}

/** The first pool, which is the default one. */
export async function poolOf(capsule: TestCapsule): Promise<PoolJson> {
  const { pools } = JSON.parse(await capsule.ctl(["pool", "list", "-o", "json"])) as { pools: PoolJson[] };
  const [found] = pools;
  if (found === undefined) throw new Error("the capsule has no pool");
  return found;
}

/** Where the disk of a volume is on the capsule: a device, or a file. */
export async function diskPath(capsule: TestCapsule, volume: string): Promise<string> {
  const text = `ls /dev/capsule/vol-${volume} /run/capsule/pools/default/disks/vol-${volume}@*.img 2>/dev/null | head -n 1`;
  return (await capsule.host.exec(["sh", "-c", text])).trim();
}

/** Every disk of the pool: its name, and for a pool of files whether it is in new/ or disks/. */
export async function disksOf(capsule: TestCapsule): Promise<string[]> {
  const script =
    "if [ -e /run/capsule/boot.json ]; then lvm lvs --noheadings -o lv_name -S pool_lv=pool capsule | tr -d ' '; else cd /run/capsule/pools/default && ls new/* disks/* 2>/dev/null || true; fi";
  return (await capsule.host.exec(["sh", "-c", script])).split("\n").filter((line) => line !== "");
}

/** Of what `disksOf` tells, a disk that was not finished. */
export function isUnfinished(disk: string): boolean {
  return /^new\/|next-/.test(disk);
}

/** Puts a word into a volume that nobody uses. */
export async function writeWitness(capsule: TestCapsule, volume: string, word: string): Promise<void> {
  await capsule.ctl(["volume", "mount", volume, "--", "sh", "-c", `echo ${word} >/mnt/witness; sync`]);
}

export async function readWitness(capsule: TestCapsule, volume: string): Promise<string> {
  return (await capsule.ctl(["volume", "mount", volume, "--read-only", "--", "cat", "/mnt/witness"])).trim();
}
