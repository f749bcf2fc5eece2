/**
 * Whether KVM runs the guest kernel here: found by booting it, never by /dev/kvm alone, which also opens where stock kernels
 * spin for ever (nested without hardware, PVM). Asked once, when the first machine starts.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import type { Logger } from "pino";
import type { Accelerator } from "./backends/backend.ts";
import { firmware, programs } from "./backends/qemu.ts";

const deadlineMs = 8_000;

export class AcceleratorProbe {
  readonly #kernel: string;
  readonly #log: Logger;
  #found: Promise<Accelerator> | undefined;

  constructor(kernel: string, log: Logger) {
    this.#kernel = kernel;
    this.#log = log;
  }

  get(): Promise<Accelerator> {
    this.#found ??= this.#probe();
    return this.#found;
  }

  async #probe(): Promise<Accelerator> {
    const works = existsSync("/dev/kvm") && (await bootsWithKvm(this.#kernel));
    this.#log.info({ works }, works ? "microVMs run on KVM" : "KVM cannot be used here: microVMs are emulated");
    return works ? "kvm" : "tcg";
  }
}

async function bootsWithKvm(kernel: string): Promise<boolean> {
  const machine = ["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config"];
  const paths = ["-bios", firmware];
  const speaking = ["-display", "none", "-serial", "stdio", "-no-reboot"];
  // It has no root filesystem: how far it gets is all that matters.
  const boot = ["-kernel", kernel, "-append", "console=ttyS0 reboot=t panic=-1"];
  const child = spawn(programs.kvm, [...machine, ...paths, ...speaking, ...boot], {
    stdio: ["ignore", "pipe", "ignore"],
    timeout: deadlineMs,
    killSignal: "SIGKILL",
  });
  let said = "";
  child.stdout.on("data", (data: Buffer) => {
    said = `${said}${data.toString("latin1")}`.slice(-4_096);
    if (said.includes("Kernel panic")) child.kill("SIGKILL");
  });
  await new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("close", () => resolve());
  });
  return said.includes("Kernel panic");
}
