/** The disks of the machine, as the kernel tells of them (sysfs-block, Documentation/ABI of the kernel). */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";

export interface Disk {
  /** Such as "sda" or "nvme0n1". */
  readonly name: string;
  readonly model: string;
  readonly sizeBytes: bigint;
  readonly removable: boolean;
  /** The capsule was started from it. */
  readonly system: boolean;
}

const sectorBytes = 512n;

/** Whole disks with a medium; nothing that only looks like one (loop devices, logical volumes, memory). */
export async function readDisks(bootDisk: string | undefined, root = "/sys/block"): Promise<Disk[]> {
  const disks = await Promise.all(
    (await readdir(root)).sort().map(async (name): Promise<Disk | undefined> => {
      const read = async (file: string): Promise<string> =>
        (await readFile(join(root, name, file), "utf8").catch(() => "")).trim();
      const [size, removable, model, device] = await Promise.all(
        ["size", "removable", "device/model", "device/uevent"].map(read),
      );
      // What is no device of its own has no "device" there; a drive without a medium has no size.
      if (device === "" && model === "") return undefined;
      if (size === "" || size === "0" || /^(sr|fd)[0-9]/.test(name)) return undefined;
      return {
        name,
        model: model ?? "",
        sizeBytes: BigInt(size ?? 0) * sectorBytes,
        removable: removable === "1",
        system: bootDisk !== undefined && basename(bootDisk) === name,
      };
    }),
  );
  return disks.filter((disk) => disk !== undefined);
}
