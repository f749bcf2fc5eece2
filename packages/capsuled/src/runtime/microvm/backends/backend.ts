/**
 * The interface of a virtual machine monitor. It knows how its programs are started; nothing of images, agents or workloads. The program runs in a jail (jail.ts), which starts and outlives capsuled; what a backend knows of a running
 * machine it finds again by the machine's paths.
 */
import type { RunPaths } from "../layout.ts";

export type BackendName = "qemu" | "firecracker";

export interface MachineConfig {
  readonly uid: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly initramfs: string | undefined;
  /** Added to what the backend itself needs on the kernel's command line. */
  readonly kernelArgs: readonly string[];
  /** In the order of the guest: the first is its root. */
  readonly disks: readonly { readonly path: string; readonly readOnly: boolean }[];
  readonly network: { readonly tap: string; readonly mac: string } | undefined;
  readonly accelerator: Accelerator;
}

/** "tcg" emulates, where the processor's virtualisation cannot be used. */
export type Accelerator = "kvm" | "tcg";

/** A jailed program of a machine. */
export interface Program {
  /** Of its files in the machine's directory. The monitor itself is `monitor`. */
  readonly name: string;
  readonly argv: readonly string[];
  readonly devices: readonly string[];
  readonly open: MachineConfig["disks"];
  readonly tap: string | undefined;
  /** Socket below the machine's root that exists when it can be used; the next program is started then. */
  readonly readySocket: string | undefined;
}

export interface MicroVmBackend {
  readonly name: BackendName;
  /** Why it cannot be used on this capsule; undefined when it can. */
  unavailable(): string | undefined;
  /** Memory that the monitor itself may take beside the guest's, in bytes. */
  overheadBytes(config: Pick<MachineConfig, "memoryBytes" | "accelerator">): number;
  /** What has to run, in order; the monitor is the last. */
  programs(config: MachineConfig, paths: RunPaths): readonly Program[];
}

/** Name of the program whose end is the machine's. */
export const monitor = "monitor";
