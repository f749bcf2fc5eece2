/** A microVM for the tests of its agent: QEMU's machine type `microvm`, emulated, with a way to its agent and a few disks. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createReadStream, createWriteStream, existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { downloadPackages, extractPackage } from "../../image/apt.ts";
import { buildGuest } from "../../image/guest/build.ts";
import { cacheDir } from "../../image/paths.ts";
import { buildQemu } from "../../image/qemu/program.ts";
import { run } from "../../image/run.ts";
import { type Agent, dialAgent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";
import {
  agentPortArguments,
  controlArguments,
  firmware,
  kernelArguments,
  restoreArguments,
} from "../../packages/capsuled/src/runtime/microvm/backends/qemu.ts";
import { incoming, restoreState, saveState } from "../../packages/capsuled/src/runtime/microvm/backends/qemu-state.ts";

const MiB = 1024 ** 2;
const memory = "512M";

export interface GuestMachineOptions {
  /** For its sockets and its console. */
  readonly dir: string;
  /** Raw images: vda, vdb … */
  readonly disks: readonly string[];
  /** File with the state to go on from, as `save` wrote it, instead of booting. */
  readonly from?: string;
  /** Network namespace in which QEMU makes a TAP interface `tap0`; without one its interface leads nowhere. */
  readonly netns?: string;
}

export class GuestMachine {
  readonly #dir: string;
  readonly #qemu: ChildProcess;
  readonly startedAt: number;

  private constructor(dir: string, qemu: ChildProcess) {
    this.#dir = dir;
    this.#qemu = qemu;
    this.startedAt = performance.now();
  }

  static async start({ dir, disks, from, netns }: GuestMachineOptions): Promise<GuestMachine> {
    const guest = await buildGuest();
    await mkdir(dir, { recursive: true });
    for (const name of ["agent", "control", incoming]) await rm(join(dir, name), { force: true });
    const network =
      netns === undefined ? "user,id=net0,restrict=on" : "tap,id=net0,ifname=tap0,script=no,downscript=no";
    const qemu = program(dir, "qemu.log", [
      ...(netns === undefined ? [] : ["ip", "netns", "exec", netns]),
      ...(await buildQemu()).argv,
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ...["-M", "microvm,isa-serial=on,pic=off,pit=off,rtc=on,acpi=on,auto-kernel-cmdline=on"],
      ...["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max", "-smp", "1", "-m", memory],
      ...["-bios", basename(firmware)],
      ...["-kernel", guest.kernel, "-initrd", guest.initramfs],
      ...["-append", kernelArguments("tcg").join(" ")],
      ...["-serial", `file:${join(dir, "console")}`],
      ...disks.flatMap((path, i) => [
        ...["-drive", `if=none,id=disk${i},file=${path},format=raw,discard=unmap`],
        ...["-device", `virtio-blk-device,drive=disk${i}`],
      ]),
      ...agentPortArguments(join(dir, "agent")),
      ...controlArguments(join(dir, "control")),
      ...(from === undefined ? [] : restoreArguments(dir)),
      ...["-netdev", network, "-device", "virtio-net-device,netdev=net0"],
      ...["-device", "virtio-balloon-device,free-page-reporting=on", "-device", "virtio-rng-device"],
    ]);
    const machine = new GuestMachine(dir, qemu);
    if (from !== undefined) {
      while (!existsSync(join(dir, "control"))) await sleep(50);
      await restoreState(machine.#sockets, createReadStream(from)).catch(async (error: unknown) => {
        await machine.kill();
        throw error;
      });
    }
    return machine;
  }

  /** Writes its memory and devices to a file; `atRest` is called while it stands still. It goes on afterwards. */
  async save(path: string, atRest: () => Promise<void>): Promise<void> {
    await saveState(this.#sockets, this.#dir, createWriteStream(path), atRest);
  }

  get #sockets(): { sockets: string; control: string } {
    return { sockets: this.#dir, control: join(this.#dir, "control") };
  }

  console(): string {
    const path = join(this.#dir, "console");
    return existsSync(path) ? readFileSync(path, "utf8").replaceAll("\r", "") : "";
  }

  /** What all that belongs to it said last. */
  #logs(): string {
    const path = join(this.#dir, "qemu.log");
    const said = existsSync(path) ? readFileSync(path, "utf8").slice(-1_000) : "";
    return `qemu.log: ${said}\nconsole: ${this.console().slice(-2_000)}`;
  }

  /** Where its agent is reached. */
  get agentPath(): string {
    return join(this.#dir, "agent");
  }

  /** Stops its processor, or lets it go on: it accepts nothing meanwhile. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    this.#qemu.kill(signal);
  }

  /** Processor time that it has used, in hundredths of a second. */
  ticks(): number {
    // proc_pid_stat(5): the fields after the name, of which these are the 12th and 13th.
    const fields = readFileSync(`/proc/${this.#qemu.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    return Number(fields[11]) + Number(fields[12]);
  }

  isAlive(): boolean {
    return this.#qemu.exitCode === null && this.#qemu.signalCode === null;
  }

  /** Connects as soon as the agent answers. */
  async dial(timeoutMs = 120_000): Promise<Agent> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const agent = await dialAgent(this.agentPath);
      if (agent !== undefined) return agent;
      if (!this.isAlive() || Date.now() > deadline)
        throw new Error(`the agent does not answer; QEMU ${this.isAlive() ? "runs" : "ended"}:\n${this.#logs()}`);
      await sleep(100);
    }
  }

  /** Whether it was off within the time. */
  async untilOff(timeoutMs: number): Promise<boolean> {
    if (!this.isAlive()) return true;
    const off = once(this.#qemu, "exit").then(() => true);
    return await Promise.race([off, sleep(timeoutMs, false, { ref: false })]);
  }

  /** Ends everything that belongs to it. */
  async kill(): Promise<void> {
    if (!this.isAlive()) return;
    this.#qemu.kill("SIGKILL");
    await once(this.#qemu, "exit");
  }
}

function program(dir: string, log: string, argv: readonly string[]): ChildProcess {
  const script = 'exec "$@" >"$CAPSULE_LOG" 2>&1';
  // They end with the test, however that ends.
  return spawn("setpriv", ["--pdeathsig", "KILL", "sh", "-c", script, "sh", ...argv], {
    stdio: "ignore",
    env: { ...process.env, CAPSULE_LOG: join(dir, log) },
  });
}

/** A raw ext4 image; with the content of a directory when one is given. */
export async function makeDisk(path: string, sizeMib: number, from?: string): Promise<void> {
  await writeFile(path, "");
  await truncate(path, sizeMib * MiB);
  await run(["mke2fs", "-q", "-F", "-t", "ext4", ...(from === undefined ? [] : ["-d", from]), path]);
}

/** The root filesystem of a payload: Debian's static busybox and a few accounts. */
export async function makeRootTree(dir: string): Promise<void> {
  const [deb = ""] = await downloadPackages(["busybox-static"], join(cacheDir, "debs"));
  await extractPackage(deb, `${dir}.deb`);
  for (const name of ["bin", "dev", "etc", "proc", "sys", "tmp", "data", "srv"])
    await mkdir(join(dir, name), { recursive: true });
  await chmod(join(dir, "tmp"), 0o1777);
  await copyFile(join(`${dir}.deb`, "usr/bin/busybox"), join(dir, "bin/busybox"));
  const applets = "sh cat date dd echo env grep head id ip kill ls seq sleep stty sync tail touch true wc".split(" ");
  for (const name of applets) await symlink("busybox", join(dir, "bin", name));
  await writeFile(join(dir, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n");
  await writeFile(join(dir, "etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:40:web\n");
  await rm(`${dir}.deb`, { recursive: true });
}
