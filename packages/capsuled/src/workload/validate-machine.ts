/** Whether the capsule can run a microVM as its spec says. Pure. */
import { MicroVmBackend, type MicroVmSpec, NetworkMode } from "@capsule/api";
import { clip, type Faults, known, LABEL } from "./faults.ts";
import { volumePath } from "./own-kernel.ts";

/** What the capsule has for microVMs. */
export interface MachineLimits {
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Why a backend cannot be used on this capsule; undefined when it can. */
  readonly unavailable: (backend: "qemu" | "firecracker") => string | undefined;
}

/** Where the guest kernel is put ends at 66 MiB; its initramfs, packed and unpacked, and a payload that does something. */
const MIN_GUEST_MIB = 96;
/** The kernel takes 2 KiB (x86), some of which the capsule uses itself. */
const maxKernelArgs = 1_500;
/** With blocks of 4 KiB. */
const MAX_DISK_BYTES = 2n ** 44n;
/** vcpu_count of its API. */
const MAX_FIRECRACKER_VCPUS = 32;

export function validateMicroVm(spec: MicroVmSpec, machines: MachineLimits, faults: Faults): void {
  const { vcpus, memoryMib, diskBytes, backend, networkMode, resources } = spec;
  if (vcpus > machines.vcpus)
    faults.add(faults.at("vcpus"), `${vcpus} is not possible: the capsule has ${machines.vcpus} processors`);
  else if (backend === MicroVmBackend.FIRECRACKER && vcpus > MAX_FIRECRACKER_VCPUS)
    faults.add(faults.at("vcpus"), `${vcpus} is not possible: Firecracker has at most ${MAX_FIRECRACKER_VCPUS}`);
  if (memoryMib !== 0 && memoryMib < MIN_GUEST_MIB)
    faults.add(faults.at("memoryMib"), `${memoryMib} is not possible: at least ${MIN_GUEST_MIB}`);
  if (memoryMib > machines.memoryMib)
    faults.add(faults.at("memoryMib"), `${memoryMib} is not possible: the capsule has ${machines.memoryMib} MiB`);
  if (diskBytes > MAX_DISK_BYTES)
    faults.add(faults.at("diskBytes"), `${diskBytes} is more than an ext4 filesystem holds`);
  known(backend, MicroVmBackend, faults.at("backend"), faults);
  const refused = backendFault(backend, machines);
  if (refused !== undefined) faults.add(faults.at("backend"), refused);
  if (networkMode === NetworkMode.HOST)
    faults.add(faults.at("networkMode"), "a microVM has a network of its own: BRIDGE or NONE");
  if ((resources?.memoryMib ?? 0) !== 0)
    faults.add(faults.at("resources.memoryMib"), "the memory of a microVM is microVm.memoryMib");
  validateOwnKernel(spec, faults);
}

function backendFault(backend: MicroVmBackend, { unavailable }: MachineLimits): string | undefined {
  switch (backend) {
    case MicroVmBackend.QEMU:
      return unavailable("qemu");
    case MicroVmBackend.FIRECRACKER:
      return unavailable("firecracker");
    case MicroVmBackend.LIBKRUN:
      return "this version of Capsule has no libkrun: QEMU";
    default:
      return undefined;
  }
}

/** An own kernel comes with an own root disk, and without everything that an agent would do in it. */
function validateOwnKernel(spec: MicroVmSpec, faults: Faults): void {
  const { kernelPath, initramfsPath, rootfsPath, kernelArgs } = spec;
  if (kernelPath === "") {
    for (const [field, value] of Object.entries({ initramfsPath, rootfsPath, kernelArgs }))
      if (value !== "") faults.add(faults.at(field), "it is for an own kernel: kernelPath is missing");
    return;
  }
  for (const [field, value] of Object.entries({ kernelPath, initramfsPath }))
    if (value !== "" && volumePath(value) === undefined)
      faults.add(faults.at(field), `"${clip(value)}" names no file of a volume, such as root/boot/vmlinuz`);
  if (!LABEL.test(rootfsPath))
    faults.add(
      faults.at("rootfsPath"),
      `"${clip(rootfsPath)}" is no name of a volume: an own kernel has one as its root disk`,
    );
  if (kernelArgs.length > maxKernelArgs || /[^\x20-\x7e]/.test(kernelArgs))
    faults.add(faults.at("kernelArgs"), `it is one line of at most ${maxKernelArgs} printable ASCII characters`);
  const byAgent: readonly [string, boolean][] = [
    ["image", spec.image !== ""],
    ["command", spec.command.length > 0],
    ["args", spec.args.length > 0],
    ["env", spec.env.length > 0],
    ["workingDir", spec.workingDir !== ""],
    ["user", spec.user !== ""],
    ["mounts", spec.mounts.length > 0],
    ["dns", spec.dns !== undefined],
    ["stopSignal", spec.stopSignal !== ""],
    ["diskBytes", spec.diskBytes !== 0n],
    ["persistentRoot", spec.persistentRoot],
  ];
  for (const [field, used] of byAgent)
    if (used)
      faults.add(faults.at(field), "a machine with an own kernel has what is on its root disk: leave the field out");
}
