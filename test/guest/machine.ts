/** A microVM for the tests of its agent: QEMU's machine type `microvm`, emulated, with a vsock and a few disks. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GuestAgent } from "@capsule/api/gen/capsule/v1/guest_pb.js";
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { downloadPackages, extractPackage } from "../../image/apt.ts";
import { buildGuest } from "../../image/guest/build.ts";
import { cacheDir } from "../../image/paths.ts";
import { programTree } from "../../image/program-tree.ts";
import { run } from "../../image/run.ts";

const MiB = 1024 ** 2;
const agentPort = 1024;
const memory = "512M";

export interface GuestConnection {
  readonly client: Client<typeof GuestAgent>;
  close(): void;
}

export interface GuestMachineOptions {
  /** For its sockets and its console. */
  readonly dir: string;
  /** Raw images: vda, vdb … */
  readonly disks: readonly string[];
  readonly kernelArgs?: readonly string[];
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

  static async start({ dir, disks, kernelArgs = [] }: GuestMachineOptions): Promise<GuestMachine> {
    const guest = await buildGuest();
    const { root, loader } = await programTree(["qemu-system-x86", "seabios", "ovmf"]);
    await mkdir(dir, { recursive: true });
    for (const name of ["vsock", "agent"]) await rm(join(dir, name), { force: true });
    const vsock = program(dir, "vsock.log", [
      vsockProgram(),
      "--vm",
      `guest-cid=3,socket=${join(dir, "vsock")},uds-path=${join(dir, "agent")}`,
    ]);
    for (let i = 0; i < 50 && !existsSync(join(dir, "vsock")); i++) await sleep(100);
    const qemu = program(dir, "qemu.log", [
      ...loader,
      join(root, "usr/bin/qemu-system-x86_64"),
      ...["qemu", "seabios"].flatMap((name) => ["-L", join(root, "usr/share", name)]),
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ...["-M", "microvm,memory-backend=m0,isa-serial=on,pic=off,pit=off,rtc=on,acpi=on,auto-kernel-cmdline=on"],
      ...["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max", "-smp", "1", "-m", memory],
      ...["-object", `memory-backend-memfd,id=m0,size=${memory},share=on`],
      ...["-bios", join(root, "usr/share/qemu/qboot.rom")],
      ...["-kernel", guest.kernel, "-initrd", guest.initramfs],
      ...["-append", [...kernelArguments(), ...kernelArgs].join(" ")],
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
  async dial(timeoutMs = 120_000): Promise<GuestConnection> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const socket = await handshake(join(this.#dir, "agent"));
      if (socket !== undefined) return connectionOver(socket);
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

/** Debian has no package of it: built from its crate, or named by $CAPSULE_VHOST_DEVICE_VSOCK. */
function vsockProgram(): string {
  const name = "vhost-device-vsock";
  const paths = (process.env["PATH"] ?? "").split(delimiter).map((dir) => join(dir, name));
  const named = process.env["CAPSULE_VHOST_DEVICE_VSOCK"];
  const found = [...(named === undefined ? [] : [named]), join(cacheDir, `${name}-0.3.0`), ...paths].find(existsSync);
  if (found === undefined)
    throw new Error(
      `no ${name}: cargo install ${name} --version 0.3.0 --locked, or name it in CAPSULE_VHOST_DEVICE_VSOCK`,
    );
  return found;
}

/** Calibrating against emulated clocks hangs about every second time; the emulated time stamp counter is the host's. */
function kernelArguments(): string[] {
  const mhz = Number(/^cpu MHz\s*: ([0-9.]+)/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? 2_000);
  const khz = Math.round(mhz * 1_000);
  const lpj = Math.round((khz * 1_000) / 250);
  return ["console=ttyS0", "reboot=t", "panic=-1", `tsc_early_khz=${khz}`, "no_timer_check", `lpj=${lpj}`];
}

async function handshake(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
  const answer = await new Promise<string>((resolve) => {
    const timer = setTimeout(() => resolve("late"), 2_000);
    socket.once("connect", () => socket.write(`CONNECT ${agentPort}\n`));
    let said = "";
    // Byte by byte: what follows the line is the agent's.
    const read = (): void => {
      for (let byte = socket.read(1) as Buffer | null; byte !== null; byte = socket.read(1) as Buffer | null) {
        said += byte.toString("latin1");
        if (!said.endsWith("\n")) continue;
        clearTimeout(timer);
        socket.off("readable", read);
        resolve(said);
        return;
      }
    };
    socket.on("readable", read);
    socket.on("error", () => undefined);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve("closed");
    });
  });
  if (answer.startsWith("OK ") && !socket.destroyed) return socket;
  socket.destroy();
  return undefined;
}

function connectionOver(socket: Socket): GuestConnection {
  const baseUrl = "http://guest.local";
  const options = { createConnection: () => socket } as ConstructorParameters<typeof Http2SessionManager>[2];
  const sessionManager = new Http2SessionManager(baseUrl, {}, options);
  const transport = createGrpcTransport({ baseUrl, sessionManager, acceptCompression: [] });
  return {
    client: createClient(GuestAgent, transport),
    close: () => {
      sessionManager.abort();
      socket.destroy();
    },
  };
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
