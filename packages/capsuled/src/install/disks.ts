/**
 * The disks of the machine: what the kernel tells of them (sysfs, Documentation/ABI of the kernel), without opening one.
 * There is no udev that has gathered it before.
 */
import { readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";

export type Transport = "nvme" | "sata" | "scsi" | "virtio" | "mmc" | "usb" | "other";

export interface DiskPartition {
  /** Such as "/dev/sda1". */
  readonly path: string;
  /** Of its entry in a GPT; empty without. */
  readonly name: string;
  readonly sizeBytes: number;
}

export interface Disk {
  /** Such as "/dev/sda". */
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly model: string;
  readonly serial: string;
  readonly transport: Transport;
  /** Its medium is meant to be taken out: a stick, an SD card. */
  readonly removable: boolean;
  readonly readOnly: boolean;
  /** Where it, or a partition of it, is mounted, and what is built on it; empty when nothing is. */
  readonly users: readonly string[];
  readonly partitions: readonly DiskPartition[];
}

/** No disks of their own: memory, optical drives, what is built on other disks, and the boot areas of an eMMC. */
const noDisk = /^(loop|ram|zram|sr|fd|dm-|md|nbd)|^mmcblk\d+(boot\d+|rpmb)$/;
const sizeUnitBytes = 512;

export interface Places {
  readonly sysBlock: string;
  readonly proc: string;
}

const kernelsOwn: Places = { sysBlock: "/sys/block", proc: "/proc" };

/** All whole disks with a medium, in the order of their names. */
export async function readDisks(places = kernelsOwn): Promise<Disk[]> {
  const users = await readUsers(places.proc);
  const names = (await readdir(places.sysBlock)).filter((name) => !noDisk.test(name)).sort();
  const disks = await Promise.all(names.map((name) => readDisk(places.sysBlock, name, users)));
  return disks.filter((disk) => disk !== undefined);
}

async function readDisk(
  sysBlock: string,
  name: string,
  users: ReadonlyMap<string, readonly string[]>,
): Promise<Disk | undefined> {
  const dir = join(sysBlock, name);
  const [size, sector, removable, readOnly, model, kind, number] = await Promise.all(
    ["size", "queue/logical_block_size", "removable", "ro", "device/model", "device/type", "dev"].map((file) =>
      textOf(join(dir, file)),
    ),
  );
  const sizeBytes = Number(size) * sizeUnitBytes;
  if (!(sizeBytes > 0)) return undefined;
  const partitions = await readPartitions(dir);
  const holders = [
    ...(await holdersOf(dir)),
    ...(await Promise.all(partitions.map(({ dir: own }) => holdersOf(own)))).flat(),
  ];
  const numbers = [number ?? "", ...partitions.map((one) => one.number)];
  return {
    path: `/dev/${name}`,
    sizeBytes,
    sectorBytes: Number(sector) || sizeUnitBytes,
    model: model ?? "",
    serial: await serialOf(dir),
    transport: transportOf(await realpath(dir)),
    // A card says nothing of being removable, but what it is (mmc, "SD" or "MMC", which is soldered in).
    removable: removable === "1" || kind === "SD",
    readOnly: readOnly === "1",
    users: [...new Set([...numbers.flatMap((one) => users.get(one) ?? []), ...holders])],
    partitions: partitions.map(({ path, name: entry, sizeBytes: bytes }) => ({ path, name: entry, sizeBytes: bytes })),
  };
}

async function readPartitions(
  dir: string,
): Promise<(DiskPartition & { readonly dir: string; readonly number: string })[]> {
  const found: (DiskPartition & { dir: string; number: string; order: number })[] = [];
  for (const entry of await readdir(dir)) {
    const own = join(dir, entry);
    const order = await textOf(join(own, "partition"));
    if (order === "") continue;
    const [uevent, size, number] = await Promise.all(["uevent", "size", "dev"].map((file) => textOf(join(own, file))));
    const name = /^PARTNAME=(.*)$/m.exec(uevent ?? "")?.[1] ?? "";
    const sizeBytes = Number(size) * sizeUnitBytes;
    found.push({ path: `/dev/${entry}`, name, sizeBytes, dir: own, number: number ?? "", order: Number(order) });
  }
  return found.sort((a, b) => a.order - b.order);
}

/** NVMe and MMC tell it below the device, virtio beside it, SCSI and SATA in a page of the drive (SPC, "80h"). */
async function serialOf(dir: string): Promise<string> {
  for (const file of ["device/serial", "serial"]) {
    const text = await textOf(join(dir, file));
    if (text !== "") return printable(text);
  }
  const page = await readFile(join(dir, "device/vpd_pg80")).catch(() => Buffer.alloc(0));
  return printable(page.subarray(4).toString("latin1"));
}

/** A person types it. */
function printable(text: string): string {
  return text.replaceAll(/[^\x21-\x7e]+/g, " ").trim();
}

/** By the buses that the device hangs on: a USB stick is a SCSI disk too, so USB goes first. */
function transportOf(devicePath: string): Transport {
  const buses: readonly (readonly [RegExp, Transport])[] = [
    [/\/usb\d/, "usb"],
    [/\/nvme/, "nvme"],
    [/\/mmc_host\//, "mmc"],
    [/\/virtio\d/, "virtio"],
    [/\/ata\d/, "sata"],
    [/\/host\d+\/target/, "scsi"],
  ];
  return buses.find(([pattern]) => pattern.test(devicePath))?.[1] ?? "other";
}

/** What is built on it: logical volumes, arrays. */
async function holdersOf(dir: string): Promise<string[]> {
  return (await readdir(join(dir, "holders")).catch(() => [])).map((name) => `/dev/${name} is built on it`);
}

/** Mount points by "MAJOR:MINOR" (proc_pid_mountinfo(5)). */
async function readUsers(proc: string): Promise<Map<string, string[]>> {
  const users = new Map<string, string[]>();
  const add = (key: string, user: string): void => void users.set(key, [...(users.get(key) ?? []), user]);
  for (const line of (await textOf(join(proc, "self/mountinfo"))).split("\n")) {
    const [, , number = "", , where = ""] = line.split(" ");
    if (number !== "") add(number, `mounted at ${where}`);
  }
  return users;
}

async function textOf(path: string): Promise<string> {
  return (await readFile(path, "utf8").catch(() => "")).trim();
}
