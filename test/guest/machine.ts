/** A microVM for the tests of its agent: QEMU's machine type `microvm`, emulated, with a vsock and a few disks. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { downloadPackages, extractPackage } from "../../image/apt.ts";
import { buildGuest } from "../../image/guest/build.ts";
import { buildVsock } from "../../image/guest/vsock.ts";
import { cacheDir } from "../../image/paths.ts";
import { buildQemu } from "../../image/qemu/program.ts";
import { run } from "../../image/run.ts";
import { type Agent, dialAgent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";
import { firmware, kernelArguments } from "../../packages/capsuled/src/runtime/microvm/backends/qemu.ts";

const MiB = 1024 ** 2;
const memory = "512M";

export interface GuestMachineOptions {
  /** For its sockets and its console. */
  readonly dir: string;
  /** Raw images: vda, vdb … */
  readonly disks: readonly string[];
}

export class GuestMachine {
  readonly #dir: string;
  readonly #children: readonly ChildProcess[];
  readonly #qemu: ChildProcess;
  readonly startedAt: number;

  private constructor(dir: string, vsock: ChildProcess, qemu: ChildProcess) {
    this.#dir = dir;
    this.#children = [vsock, qemu];
    this.#qemu = qemu;
    this.startedAt = performance.now();
  }

  static async start({ dir, disks }: GuestMachineOptions): Promise<GuestMachine> {
    const guest = await buildGuest();
    await mkdir(dir, { recursive: true });
    for (const name of ["vsock", "agent"]) await rm(join(dir, name), { force: true });
    const vsock = program(dir, "vsock.log", [
      await buildVsock(),
      "--vm",
      `guest-cid=3,socket=${join(dir, "vsock")},uds-path=${join(dir, "agent")}`,
    ]);
    for (let i = 0; i < 50 && !existsSync(join(dir, "vsock")); i++) await sleep(100);
    const qemu = program(dir, "qemu.log", [
      ...(await buildQemu()).argv,
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ...["-M", "microvm,memory-backend=m0,isa-serial=on,pic=off,pit=off,rtc=on,acpi=on,auto-kernel-cmdline=on"],
      ...["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max", "-smp", "1", "-m", memory],
      ...["-object", `memory-backend-memfd,id=m0,size=${memory},share=on`],
      ...["-bios", basename(firmware)],
      ...["-kernel", guest.kernel, "-initrd", guest.initramfs],
      ...["-append", kernelArguments("tcg").join(" ")],
      ...["-serial", `file:${join(dir, "console")}`],
      ...disks.flatMap((path, i) => [
        ...["-drive", `if=none,id=disk${i},file=${path},format=raw,discard=unmap`],
        ...["-device", `virtio-blk-device,drive=disk${i}`],
      ]),
      ...["-chardev", `socket,id=vsock0,path=${join(dir, "vsock")}`],
      ...["-device", "vhost-user-vsock-device,chardev=vsock0"],
      // A device to give addresses to; it leads nowhere.
      ...["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-device,netdev=net0"],
      ...["-device", "virtio-balloon-device,free-page-reporting=on", "-device", "virtio-rng-device"],
    ]);
    return new GuestMachine(dir, vsock, qemu);
  }

  console(): string {
    const path = join(this.#dir, "console");
    return existsSync(path) ? readFileSync(path, "utf8").replaceAll("\r", "") : "";
  }

  /** What all that belongs to it said last. */
  #logs(): string {
    const said = ["qemu.log", "vsock.log"].map((name) => {
      const path = join(this.#dir, name);
      return `${name}: ${existsSync(path) ? readFileSync(path, "utf8").slice(-1_000) : ""}`;
    });
    return [...said, `console: ${this.console().slice(-2_000)}`].join("\n");
  }

  isAlive(): boolean {
    return this.#qemu.exitCode === null && this.#qemu.signalCode === null;
  }

  /** Connects as soon as the agent answers. */
  async dial(timeoutMs = 120_000): Promise<Agent> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const agent = await dialAgent(join(this.#dir, "agent"));
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
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill("SIGKILL");
      await once(child, "exit");
    }
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
