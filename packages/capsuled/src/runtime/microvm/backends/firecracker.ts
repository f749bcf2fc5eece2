/**
 * Firecracker (https://firecracker-microvm.github.io, 1.16): virtio devices over MMIO, no firmware, KVM only. It is configured
 * by a file, opens its disks and its interface itself, and is asked for things by an API (firecracker-api.ts). The way to the
 * agent is virtio-vsock, whose other end is a Unix socket.
 */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { agentVsockPort } from "@capsule/api/guest.ts";
import { CapsuleError } from "../../../errors.ts";
import type { RunPaths } from "../layout.ts";
import type { Accelerator, MachineConfig, MachineStates, MicroVmBackend, Node, Program } from "./backend.ts";
import { firecracker } from "./firecracker-api.ts";
import { configurationOf, diskPath, inside } from "./firecracker-config.ts";
import { restoreState, saveState } from "./firecracker-state.ts";

export const program = "/usr/bin/firecracker";
const MiB = 1024 ** 2;
const withoutKvm = "Firecracker needs KVM, which cannot be used here";
const configFile = `${inside}/config.json`;

/** `found`: what runs the guest kernel here; undefined while nobody has asked. */
export class FirecrackerBackend implements MicroVmBackend {
  readonly name = "firecracker";
  readonly agentPort = agentVsockPort;
  readonly states: MachineStates = {
    save: async (paths, to, atRest, machine) => await saveState(paths, inside, to, atRest, machine),
    restore: async (paths, from, machine) => await restoreState(paths, inside, from, machine),
  };
  readonly #found: () => Accelerator | undefined;
  readonly #program: string;

  constructor(found: () => Accelerator | undefined, path = program) {
    this.#found = found;
    this.#program = path;
  }

  unavailable(): string | undefined {
    if (!existsSync(this.#program)) return "the image of this capsule is without Firecracker";
    return this.#found() === "tcg" ? withoutKvm : undefined;
  }

  overheadBytes({ memoryBytes }: Pick<MachineConfig, "memoryBytes" | "accelerator">): number {
    // Its documents say 5 MiB for itself; not measured here. Two tables of pages lead to the guest's memory, 8 bytes for 4 KiB each.
    return 32 * MiB + Math.ceil(memoryBytes / 256);
  }

  /** Throws CapsuleError where there is no KVM: the first machine is what finds that out. */
  program(config: MachineConfig, paths: RunPaths): Program {
    if (config.accelerator !== "kvm")
      throw new CapsuleError("precondition", `${withoutKvm}.`, { reason: "NO_BACKEND" });
    const bootDir = dirname(config.kernel);
    // Configuration and state exclude each other: what is restored brings its own.
    const configured = config.isRestored ? [] : ["--config-file", configFile];
    return {
      argv: [this.#program, "--id", config.uid, "--api-sock", `${inside}/control`, ...configured],
      readOnly: bootDir.startsWith("/usr/") ? ["/usr"] : ["/usr", bootDir],
      devices: ["/dev/null", "/dev/urandom"],
      open: [],
      nodes: [
        ...config.disks.map(({ path, readOnly }, i): Node => ({ path, at: diskPath(i), readOnly })),
        { path: "/dev/kvm", at: "/dev/kvm", readOnly: false },
        ...(config.network === undefined ? [] : [{ path: "/dev/net/tun", at: "/dev/net/tun", readOnly: false }]),
      ],
      tap: config.network?.tap,
      opensTap: config.network !== undefined,
      files: config.isRestored ? [] : [{ at: configFile, content: JSON.stringify(configurationOf(config)) }],
      readySocket: paths.control,
    };
  }

  /** There is no such button: it is Ctrl+Alt+Del on the keyboard, upon which the guest restarts, which ends its monitor. */
  async pressPowerButton({ control }: RunPaths): Promise<void> {
    await firecracker(control, "PUT", "/actions", { action_type: "SendCtrlAltDel" });
  }
}
