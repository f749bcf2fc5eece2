import { permPartition, readBootDisk } from "./disk.ts";
import { Lvm } from "./lvm.ts";
import { groupName, poolName } from "./plan.ts";

export interface PoolUsage {
  readonly name: string;
  readonly backend: "lvm-thin" | "reflink";
  readonly sizeBytes: number;
  readonly usedBytes: number;
  /** Of the pool's own metadata space; 0 where the backend has none. */
  readonly metadataPercent: number;
}

/** How full the pool of the boot disk is; none while the disk has none. Asks LVM: a process for each call. */
export async function readPoolUsage(): Promise<PoolUsage[]> {
  const { device, contents } = await permPartition(await readBootDisk());
  if (contents !== "LVM2_member") return [];
  const fill = await new Lvm(device).poolFill();
  if (fill === undefined) return [];
  const { sizeBytes, dataPercent, metadataPercent } = fill;
  const usedBytes = Math.round((sizeBytes * dataPercent) / 100);
  return [{ name: `${groupName}/${poolName}`, backend: "lvm-thin", sizeBytes, usedBytes, metadataPercent }];
}
