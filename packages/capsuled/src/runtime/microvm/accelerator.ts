/**
 * Whether KVM runs the guest kernel here: found by booting it, never by /dev/kvm alone, which also opens where stock kernels
 * spin for ever (nested without hardware, PVM). Asked once for each boot of the capsule, when the first machine starts: the answer is
 * one about its kernel, and a second try beside machines that run would find a slow one silent.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { chmod, rename, stat, writeFile } from "node:fs/promises";
import type { Logger } from "pino";
import type { Accelerator } from "./backends/backend.ts";
import { firmware, programs } from "./backends/qemu.ts";

/** Where it does not run, the kernel says nothing at all; nested in an emulated machine it takes its time. In milliseconds. */
const silenceMs = 15_000;
const deadlineMs = 180_000;
const device = "/dev/kvm";
/**
 * Runs the rest of its words as a process that is killed when capsuled, whose pid comes first, ends. One whose parent was gone before
 * it could ask for that does not begin.
 */
const leash = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', String(process.pid)];

/** Its answer, below /run: gone with the boot that it is about. */
const answerFile = "/run/capsule/accelerator";

export class AcceleratorProbe {
  readonly #kernel: string;
  readonly #log: Logger;
  #asked: Promise<Accelerator> | undefined;
  #found: Accelerator | undefined = noted();

  constructor(kernel: string, log: Logger) {
    this.#kernel = kernel;
    this.#log = log;
  }

  async get(): Promise<Accelerator> {
    if (this.#found !== undefined) return this.#found;
    this.#asked ??= this.#probe().finally(() => {
      this.#asked = undefined;
    });
    return await this.#asked;
  }

  /** What was found; undefined while nobody has asked. */
  get found(): Accelerator | undefined {
    return this.#found;
  }

  async #probe(): Promise<Accelerator> {
    const works = existsSync(device) && (await bootsWithKvm(this.#kernel)) && (await isOpenToMonitors());
    this.#log.info({ works }, works ? "microVMs run on KVM" : "KVM cannot be used here: microVMs are emulated");
    const found = works ? "kvm" : "tcg";
    await writeFile(`${answerFile}.new`, found);
    await rename(`${answerFile}.new`, answerFile);
    this.#found = found;
    return found;
  }
}

function noted(): Accelerator | undefined {
  if (!existsSync(answerFile)) return undefined;
  return readFileSync(answerFile, "utf8") === "kvm" ? "kvm" : "tcg";
}

/**
 * Each monitor has a user of its own. The kernel makes the device for root alone; on a machine nothing else changes that (elsewhere
 * udev does), and no workload sees it. In a namespace it is the host's, and stays as it is.
 */
async function isOpenToMonitors(): Promise<boolean> {
  const everybody = 0o006;
  if (((await stat(device)).mode & everybody) === everybody) return true;
  if (process.env["container"] === "capsule-namespace") return false;
  await chmod(device, 0o666);
  return true;
}

async function bootsWithKvm(kernel: string): Promise<boolean> {
  const machine = ["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config"];
  const paths = ["-bios", firmware];
  const speaking = ["-display", "none", "-serial", "stdio", "-no-reboot"];
  // It has no root filesystem: how far it gets is all that matters.
  const boot = ["-kernel", kernel, "-append", "console=ttyS0 reboot=t panic=-1"];
  const [command = "", ...words] = [...leash, programs.kvm, ...machine, ...paths, ...speaking, ...boot];
  const child = spawn(command, words, {
    stdio: ["ignore", "pipe", "ignore"],
    timeout: deadlineMs,
    killSignal: "SIGKILL",
  });
  let said = "";
  const giveUp = setTimeout(() => child.kill("SIGKILL"), silenceMs);
  child.stdout.on("data", (data: Buffer) => {
    giveUp.refresh();
    said = `${said}${data.toString("latin1")}`.slice(-4_096);
    if (said.includes("Kernel panic")) child.kill("SIGKILL");
  });
  await new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("close", () => resolve());
  });
  clearTimeout(giveUp);
  return said.includes("Kernel panic");
}
