/**
 * QEMU's machine type `microvm`: virtio devices at fixed places, no PCI, no firmware menus, no hotplug, so all disks are
 * there from the start. The way to the agent is a virtio serial port, whose other end is a Unix socket.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname } from "node:path";
import type { RunPaths } from "../layout.ts";
import type { MachineConfig, MachineStates, MicroVmBackend, Program } from "./backend.ts";
import { incoming, restoreState, saveState } from "./qemu-state.ts";
import { qmp } from "./qmp.ts";

/** A build for this machine type and KVM alone has a quarter of the code; it cannot emulate. */
export const programs = { kvm: "/usr/bin/qemu-system-x86_64-microvm", tcg: "/usr/bin/qemu-system-x86_64" } as const;
/** With less than 896 MiB SeaBIOS puts tables where the end of the initramfs is, and the guest may have no devices then. */
export const firmware = "/usr/share/qemu/qboot.rom";
const MiB = 1024 ** 2;
/** Descriptors that the jail gives (jail.ts). */
const tapDescriptor = 3;
const firstDisk = 4;
/** Cache of translated code when it emulates. */
const translationMiB = 64;
/** Directory of its sockets, as the jailed program sees it. */
const sockets = "/run";

export class QemuBackend implements MicroVmBackend {
  readonly name = "qemu";
  readonly agentPort = undefined;
  readonly states: MachineStates = {
    save: async (paths, to, atRest) => await saveState(paths, sockets, to, atRest),
    restore: async (paths, from) => await restoreState(paths, from),
  };

  unavailable(): string | undefined {
    return Object.values(programs).every(existsSync) ? undefined : "the image of this capsule is without QEMU";
  }

  overheadBytes({ accelerator }: Pick<MachineConfig, "memoryBytes" | "accelerator">): number {
    // Measured 40 to 60 MiB for QEMU itself; the code cache when it emulates.
    return (accelerator === "tcg" ? 96 + 2 * translationMiB : 96) * MiB;
  }

  program(config: MachineConfig, paths: RunPaths): Program {
    const devices = ["/dev/null", "/dev/zero", "/dev/urandom"];
    const bootDir = dirname(config.kernel);
    return {
      readOnly: bootDir.startsWith("/usr/") ? ["/usr"] : ["/usr", bootDir],
      argv: [programs[config.accelerator], ...argumentsOf(config)],
      devices: config.accelerator === "kvm" ? [...devices, "/dev/kvm"] : devices,
      open: config.disks,
      nodes: [],
      tap: config.network?.tap,
      opensTap: false,
      readySocket: paths.control,
    };
  }

  async pressPowerButton({ control }: RunPaths): Promise<void> {
    await qmp(control, "system_powerdown");
  }
}

function argumentsOf(config: MachineConfig): string[] {
  const { uid, vcpus, memoryBytes, kernel, initramfs, disks, network, accelerator, isRestored } = config;
  const memory = `${Math.ceil(memoryBytes / MiB)}M`;
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", uid],
    ...["-bios", firmware],
    ...["-M", "microvm,isa-serial=on,pic=off,pit=off,rtc=on,acpi=on,auto-kernel-cmdline=on"],
    ...(accelerator === "kvm"
      ? ["-accel", "kvm", "-cpu", "host"]
      : ["-accel", `tcg,thread=multi,tb-size=${translationMiB}`, "-cpu", "max"]),
    ...["-smp", String(vcpus), "-m", memory],
    ...["-kernel", kernel, ...(initramfs === undefined ? [] : ["-initrd", initramfs])],
    ...["-append", [...kernelArguments(accelerator), ...config.kernelArgs].join(" ")],
    // Standard output is the machine's log: what QEMU itself says is in it too.
    ...["-chardev", "stdio,id=serial0,signal=off", "-serial", "chardev:serial0"],
    ...disks.flatMap(({ path, readOnly }, i) => disk(i, path, readOnly)),
    ...(network === undefined
      ? []
      : [
          ...["-netdev", `tap,id=net0,fd=${tapDescriptor},vhost=off`],
          ...["-device", `virtio-net-device,netdev=net0,mac=${network.mac}`],
        ]),
    ...agentPortArguments(`${sockets}/agent`),
    // Memory that the guest has freed goes back to the capsule.
    ...["-device", "virtio-balloon-device,free-page-reporting=on", "-device", "virtio-rng-device"],
    ...controlArguments(`${sockets}/control`),
    ...(isRestored ? restoreArguments(sockets) : []),
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
  ];
}

/** Its monitor, by a socket at `path` (qmp.ts). */
export function controlArguments(path: string): string[] {
  return ["-chardev", `socket,id=control0,path=${path},server=on,wait=off`, "-mon", "control0,mode=control"];
}

/** Waits for a state on a socket in `dir`. */
export function restoreArguments(dir: string): string[] {
  return ["-incoming", `unix:${dir}/${incoming}`];
}

/** The way to the agent (guest.proto), from the socket at `path`. */
export function agentPortArguments(path: string): string[] {
  return [
    ...["-chardev", `socket,id=agent0,path=${path},server=on,wait=off`, "-device", "virtio-serial-device,max_ports=2"],
    ...["-device", "virtserialport,chardev=agent0,name=capsule.agent"],
  ];
}

/** The monitor gets the disk as an open descriptor: it knows no path, and can open no other. */
function disk(index: number, path: string, readOnly: boolean): string[] {
  const access = `read-only=${readOnly ? "on" : "off"}`;
  const driver = statSync(path).isBlockDevice() ? "host_device" : "file";
  const file = `driver=${driver},filename=/dev/fdset/${index},locking=off,discard=unmap`;
  return [
    ...["-add-fd", `fd=${firstDisk + index},set=${index}`],
    ...["-blockdev", `node-name=file${index},${access},${file}`],
    ...["-blockdev", `driver=raw,node-name=disk${index},${access},discard=unmap,file=file${index}`],
    ...["-device", `virtio-blk-device,drive=disk${index}`],
  ];
}

/** What the kernel of a guest is told. */
export function kernelArguments(accelerator: MachineConfig["accelerator"]): string[] {
  const common = ["console=ttyS0", "quiet", "reboot=t", "panic=-1"];
  if (accelerator === "kvm") return common;
  // Emulated clocks: calibrating against them hangs about every second time (environment of the machines, measured). The
  // emulated time stamp counter is the host's.
  const khz = Math.round(
    Number(/^cpu MHz\s*: ([0-9.]+)/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? 2_000) * 1_000,
  );
  const ticksPerSecond = 250;
  return [...common, `tsc_early_khz=${khz}`, "no_timer_check", `lpj=${Math.round((khz * 1_000) / ticksPerSecond)}`];
}
