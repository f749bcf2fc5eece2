/** Disks, mounts and what is between them, as the tools print it. */
import { commandPart } from "../command.ts";
import type { Part } from "../part.ts";
import { filePart, filesPart } from "./files.ts";

const lvmColumns = {
  pvs: "pv_all",
  vgs: "vg_name,vg_size,vg_free,vg_extent_size,vg_tags",
  lvs: "lv_name,lv_attr,lv_size,pool_lv,origin,lv_when_full,seg_monitor,lv_tags",
};

/** `hasLvm`: it runs on disks of its own, and not in a namespace. */
export function storageParts(hasLvm: boolean): Part[] {
  const lvm = (command: keyof typeof lvmColumns): string[] => [
    ...["lvm", command, ...(command === "lvs" ? ["-a"] : [])],
    // Without it LVM waits for whoever holds its lock, and may write; what is in use only device-mapper tells then.
    ...["--readonly", "--units", "b", "-o", lvmColumns[command]],
  ];
  return [
    filePart("storage/mounts.txt", "/proc/self/mountinfo"),
    commandPart("storage/space.txt", ["df", "-k"], ["df", "-i"]),
    commandPart("storage/block-devices.txt", [
      "lsblk",
      ...["-a", "-b", "-o", "NAME,KNAME,TYPE,SIZE,RO,RM,MODEL,FSTYPE,LABEL,MOUNTPOINTS"],
    ]),
    filesPart("storage/kernel.txt", ["/proc/partitions", "/proc/diskstats", "/proc/swaps"]),
    commandPart("storage/loop-devices.txt", ["losetup", "-l", "-a"]),
    ...(hasLvm
      ? [
          commandPart("storage/lvm.txt", lvm("pvs"), lvm("vgs"), lvm("lvs")),
          // Keys of encrypted volumes are in its tables, and shown only by --showkeys.
          commandPart(
            "storage/device-mapper.txt",
            ["dmsetup", "info", "-c"],
            ["dmsetup", "table"],
            ["dmsetup", "status"],
          ),
        ]
      : []),
  ];
}
