/** The thin pool below LVM: what device-mapper knows of it and LVM does not tell (thin-provisioning.rst, thin_ls(8)). */
import { readdir, readFile } from "node:fs/promises";
import { runTool } from "../../tool.ts";
import { groupName, thinPoolName } from "../layout.ts";

const poolDevice = `${groupName}-${thinPoolName}-tpool`;
const metadataDevice = `${groupName}-${thinPoolName}_tmeta`;

/**
 * Writes to the pool's metadata since the boot, of all kinds: while there is none, nothing is allocated or freed. Undefined
 * when the pool is not active.
 */
export async function metadataWrites(): Promise<number | undefined> {
  for (const device of (await readdir("/sys/block")).filter((name) => name.startsWith("dm-"))) {
    const read = async (file: string): Promise<string> => await readFile(`/sys/block/${device}/${file}`, "utf8");
    // One that has just gone is not the pool's.
    if ((await read("dm/name").catch(() => "")).trim() !== metadataDevice) continue;
    // The fifth of them: writes that were completed (block/stat.rst).
    return Number((await read("stat")).trim().split(/\s+/)[4]);
  }
  return undefined;
}

/**
 * What each thin device has alone, in bytes, by its id. Reads all of the metadata, from a snapshot of it, for the pool is in
 * use. One call at a time: there can be one such snapshot.
 */
export async function exclusiveBytesByThinId(): Promise<Map<number, number>> {
  const message = async (text: string): Promise<string> => await runTool(["dmsetup", "message", poolDevice, "0", text]);
  // A kill may have left one; then there is nothing to release, and that is what it says.
  await message("release_metadata_snap").catch(() => undefined);
  await message("reserve_metadata_snap");
  try {
    const fields = ["--no-headers", "--format", "DEV,EXCLUSIVE_BYTES"];
    const text = await runTool(["thin_ls", "--metadata-snap", ...fields, `/dev/mapper/${metadataDevice}`]);
    const rows = [...text.matchAll(/^\s*(\d+)\s+(\d+)\s*$/gm)];
    return new Map(rows.map(([, id, bytes]) => [Number(id), Number(bytes)]));
  } finally {
    await message("release_metadata_snap");
  }
}
