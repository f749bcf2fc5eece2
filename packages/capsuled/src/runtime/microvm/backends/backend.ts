/**
 * The interface of a virtual machine monitor. It knows how its program is started; nothing of images, agents or workloads.
 * The program runs in a jail (jail.ts), which starts and outlives capsuled; what a backend knows of a running machine it
 * finds again by the machine's paths.
 */
import type { Readable, Writable } from "node:stream";
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
  /** It waits for the state of a machine that was saved with the same configuration, instead of booting. */
  readonly isRestored: boolean;
}

/** "tcg" emulates, where the processor's virtualisation cannot be used. */
export type Accelerator = "kvm" | "tcg";

/** A disk or a device of the capsule at another place in the program's root, where the program's user may open it. */
export interface Node {
  readonly path: string;
  /** Below /dev. */
  readonly at: string;
  readonly readOnly: boolean;
}

/** The program of a machine, as it runs in its jail. */
export interface Program {
  readonly argv: readonly string[];
  /** Directories of the capsule that it sees. */
  readonly readOnly: readonly string[];
  readonly devices: readonly string[];
  /** Disks that are opened for it. */
  readonly open: MachineConfig["disks"];
  /** Disks and devices that it opens itself. */
  readonly nodes: readonly Node[];
  readonly tap: string | undefined;
  /** It opens its interface itself, by the name. */
  readonly opensTap: boolean;
  /** Files that are in its root before it starts; it can only read them. */
  readonly files?: readonly { readonly at: string; readonly content: string }[];
  /** Socket that exists when the program listens. */
  readonly readySocket: string;
}

export interface MicroVmBackend {
  readonly name: BackendName;
  /**
   * Port of virtio-vsock that the agent's socket has to be told first (guest.proto); undefined where that socket is the way
   * to the agent and to nothing else.
   */
  readonly agentPort: number | undefined;
  /** Why it cannot be used on this capsule; undefined when it can. */
  unavailable(): string | undefined;
  /** Memory that the monitor itself may take beside the guest's, in bytes. */
  overheadBytes(config: Pick<MachineConfig, "memoryBytes" | "accelerator">): number;
  program(config: MachineConfig, paths: RunPaths): Program;
  /** Asks the guest to shut down as the button of a PC does; its kernel may not listen. */
  pressPowerButton(paths: RunPaths): Promise<void>;
  /** Undefined where its machines cannot be saved. */
  readonly states: MachineStates | undefined;
}

/** What has to be known of a machine for that; a monitor that was taken over says what it likes. */
export type SavedMachine = Pick<MachineConfig, "memoryBytes" | "network">;

/** Machines as bytes: memory and devices, not their disks. */
export interface MachineStates {
  /**
   * Brings a machine to rest, writes its state to `to` and ends that, calls `atRest` (for its disks: all that the guest has
   * written is in them), and lets it go on, whatever happens. Resolves when all of it is done; throws and destroys `to`
   * when a part of it fails. The machine must not be paused.
   */
  save(paths: RunPaths, to: Writable, atRest: () => Promise<void>, machine: SavedMachine): Promise<void>;
  /**
   * Gives a machine that was started with `isRestored` its state, and lets it go on. Throws when it does not take it; `from`
   * is destroyed in any case. `machine`: what it was started with.
   */
  restore(paths: RunPaths, from: Readable, machine: SavedMachine): Promise<void>;
}

/** Name of the program, in its jail's files: its end is the machine's. */
export const monitor = "monitor";
