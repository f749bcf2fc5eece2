/**
 * QEMU's machine type `microvm`: virtio devices at fixed places, no PCI, no firmware menus, no hotplug, so all disks are
 * there from the start. Its vsock is a program beside it (vhost-device-vsock), whose other end is a Unix socket: no module of
 * the capsule's kernel is needed.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import type { RunPaths } from "../layout.ts";
import { type MachineConfig, type MicroVmBackend, monitor, type Program } from "./backend.ts";

/** A build for this machine type and KVM alone has a quarter of the code; it cannot emulate. */
export const programs = { kvm: "/usr/bin/qemu-system-x86_64-microvm", tcg: "/usr/bin/qemu-system-x86_64" } as const;
/** With less than 896 MiB SeaBIOS puts tables where the end of the initramfs is, and the guest may have no devices then. */
export const firmware = "/usr/share/qemu/qboot.rom";
const vsockProgram = "/usr/lib/capsule/vhost-device-vsock";
const MiB = 1024 ** 2;
/** Descriptors that the jail gives (jail.ts). */
const tapDescriptor = 3;
const firstDisk = 4;
/** Cache of translated code when it emulates. */
const translationMiB = 64;
/** Any number above those with a meaning will do: each guest has a vsock of its own. */
const guestCid = 3;
/** Sockets as the jailed programs see them. */
const vsockSocket = "/run/vsock";
const controlSocket = "/run/control";
const agentSocket = "/run/agent";

export class QemuBackend implements MicroVmBackend {
  readonly name = "qemu";

  unavailable(): string | undefined {
    return [...Object.values(programs), vsockProgram].every(existsSync) ? undefined : "QEMU is not in this image";
  }

  overheadBytes({ accelerator }: Pick<MachineConfig, "memoryBytes" | "accelerator">): number {
    // Measured 40 to 60 MiB for QEMU itself and 4 for the vsock program; the code cache when it emulates.
    return (accelerator === "tcg" ? 96 + 2 * translationMiB : 96) * MiB;
  }

  programs(config: MachineConfig, paths: RunPaths): readonly Program[] {
    const devices = ["/dev/null", "/dev/zero", "/dev/urandom"];
    return [
      {
        name: "vsock",
        argv: [vsockProgram, "--vm", `guest-cid=${guestCid},socket=${vsockSocket},uds-path=${agentSocket}`],
        devices,
        open: [],
        tap: undefined,
        readySocket: `${paths.root}${vsockSocket}`,
      },
      {
        name: monitor,
        argv: [programs[config.accelerator], ...argumentsOf(config)],
        devices: config.accelerator === "kvm" ? [...devices, "/dev/kvm"] : devices,
        open: config.disks,
        tap: config.network?.tap,
        readySocket: paths.control,
      },
    ];
  }
}

function argumentsOf(config: MachineConfig): string[] {
  const { uid, vcpus, memoryBytes, kernel, initramfs, disks, network, accelerator } = config;
  const memory = `${Math.ceil(memoryBytes / MiB)}M`;
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", uid],
    ...["-bios", firmware],
    ...["-M", "microvm,memory-backend=m0,isa-serial=on,pic=off,pit=off,rtc=on,acpi=on,auto-kernel-cmdline=on"],
    ...(accelerator === "kvm"
      ? ["-accel", "kvm", "-cpu", "host"]
      : ["-accel", `tcg,thread=multi,tb-size=${translationMiB}`, "-cpu", "max"]),
    ...["-smp", String(vcpus), "-m", memory],
    // Shared, so that the vsock program sees it.
    ...["-object", `memory-backend-memfd,id=m0,size=${memory},share=on`],
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
    ...["-chardev", `socket,id=vsock0,path=${vsockSocket}`, "-device", "vhost-user-vsock-device,chardev=vsock0"],
    // Memory that the guest has freed goes back to the capsule.
    ...["-device", "virtio-balloon-device,free-page-reporting=on", "-device", "virtio-rng-device"],
    ...["-chardev", `socket,id=control0,path=${controlSocket},server=on,wait=off`, "-mon", "control0,mode=control"],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
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
