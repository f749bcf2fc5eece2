/** The machine, its kernel and programs, and what they are busy with. */
import { cpus } from "node:os";
import { join } from "node:path";
import type { InitStatus } from "../../system/init.ts";
import { commandPart } from "../command.ts";
import type { Part } from "../part.ts";
import { cgroupsPart } from "./cgroups.ts";
import { filesPart } from "./files.ts";
import { processesPart } from "./processes.ts";

/** Serial numbers and the like are left out: they name the machine, and help nobody. */
const dmi = ["sys_vendor", "product_name", "product_version", "board_name", "bios_vendor", "bios_version", "bios_date"];

export interface MachineFacts {
  /** It has microVMs' monitors, LVM and a clock of its own. */
  readonly isMachine: boolean;
  initStatus(): Promise<InitStatus>;
}

export function machineParts({ isMachine, initStatus }: MachineFacts): Part[] {
  return [
    commandPart(
      "machine/versions.txt",
      ...[
        ["cat", "/usr/lib/capsule/version.json"],
        ["uname", "-a"],
        ["node", "--version"],
        ["containerd", "--version"],
      ],
      ...[
        ["crun", "--version"],
        ["runc", "--version"],
        ["nft", "--version"],
        ["ip", "-V"],
        ["dnsmasq", "--version"],
      ],
      ...[["qemu-system-x86_64", "--version"], ...(isMachine ? [["lvm", "version"]] : [])],
    ),
    { name: "machine/services.json", collect: async () => `${JSON.stringify(await initStatus(), undefined, 2)}\n` },
    filesPart("machine/kernel.txt", [
      ...["version", "cmdline", "modules", "sys/kernel/tainted", "interrupts"].map((file) => `/proc/${file}`),
    ]),
    filesPart(
      "machine/hardware.txt",
      dmi.map((file) => join("/sys/class/dmi/id", file)),
    ),
    {
      name: "machine/processors.txt",
      collect: async () =>
        cpus()
          .map(({ model, speed }, i) => `${i} ${model} ${speed} MHz\n`)
          .join(""),
    },
    filesPart(
      "machine/memory.txt",
      ["uptime", "loadavg", "meminfo", "vmstat", "stat"].map((file) => `/proc/${file}`),
    ),
    filesPart(
      "machine/pressure.txt",
      ["cpu", "memory", "io"].map((file) => `/proc/pressure/${file}`),
    ),
    cgroupsPart("machine/cgroups.txt"),
    processesPart("machine/processes.txt"),
    commandPart(
      "machine/containerd.txt",
      ...["containers", "tasks", "snapshots"].map((kind) => [
        ...["ctr", "--connect-timeout", "2s", "--timeout", "5s", "--namespace", "capsule", kind, "list"],
      ]),
    ),
  ];
}
