/** Virtual machines that boot the OS image: `make qemu` and the acceptance tests. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { copyFile, mkdir, open, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import { qmp } from "../../packages/capsuled/src/runtime/microvm/backends/qmp.ts";
import { startTimeOf } from "../namespace/registry.ts";
import { run } from "../run.ts";
import { buildQemu } from "./program.ts";
import { startTpm } from "./tpm.ts";

const saveTimeoutMs = 60_000;

export interface MachineOptions {
  /** For its own files: firmware variables, sockets, the serial log. */
  readonly dir: string;
  /** Raw disk images, written to. The first is booted from, unless there is a stick. */
  readonly disks: readonly string[];
  /** Raw image of a stick on USB, which is booted from. */
  readonly stick?: string;
  /** Ports on 127.0.0.1 of this host and the ports of the machine that they lead to. */
  readonly forwards: readonly (readonly [host: number, guest: number])[];
  /** Instead of a network of QEMU's own: an interface of a network namespace, which is there already. */
  readonly tap?: { readonly enter: readonly string[]; readonly name: string; readonly mac: string };
  readonly kvm: boolean;
  readonly memoryMib?: number;
  readonly cpus?: number;
  /** Where the serial line leads, beside serial.log in `dir`: nowhere but `typeKey` (the default), or this terminal. */
  readonly serial?: "log" | "stdio";
  /** Default "uefi". */
  readonly firmware?: "uefi" | "bios";
  /** A TPM 2.0, whose state stays in `dir`. */
  readonly tpm?: boolean;
  /** Default true. Many virtual servers have none. */
  readonly hasWatchdog?: boolean;
  /** Ends with the process that started it, however that ends. */
  readonly temporary?: boolean;
  /** Goes on from what `save` wrote, with the disks of that moment, instead of booting. */
  readonly from?: string;
  /** Every write and flush of the first disk is also appended to this file (test/support/qemu/write-log.ts). */
  readonly writeLog?: string;
}

export class Machine {
  readonly options: MachineOptions;
  readonly pid: number;
  readonly #startTime: string | undefined;

  private constructor(options: MachineOptions, pid: number) {
    this.options = options;
    this.pid = pid;
    this.#startTime = startTimeOf(pid);
  }

  /** Powers a machine on. Resolves when QEMU runs; what the firmware does then is on the serial console. */
  static async start(options: MachineOptions): Promise<Machine> {
    const { dir } = options;
    await mkdir(dir, { recursive: true });
    const { argv, firmwareDir } = await buildQemu();
    const variables = join(dir, "firmware.fd");
    if (!existsSync(variables)) await copyFile(join(firmwareDir, "OVMF_VARS_4M.fd"), variables);
    await rm(join(dir, "qmp.sock"), { force: true });
    const tpmSocket = options.tpm === true ? await startTpm(dir) : undefined;
    const log = await open(join(dir, "qemu.log"), "a", 0o600);
    const onTerminal = options.serial === "stdio";
    const qemu = [...(options.tap?.enter ?? []), ...argv, ...argumentsOf(options, firmwareDir, tpmSocket)];
    const [program = "", ...args] = options.temporary === true ? ["setpriv", "--pdeathsig", "KILL", ...qemu] : qemu;
    const child = spawn(program, args, {
      detached: !onTerminal,
      stdio: onTerminal ? "inherit" : ["ignore", log.fd, log.fd],
    });
    let ended: string | undefined;
    child.once("error", (error) => {
      ended = error.message;
    });
    child.once("exit", (code, signal) => {
      ended = `it ended with ${signal ?? `code ${code}`}`;
    });
    for (let i = 0; i < 500 && ended === undefined && !(await listens(join(dir, "qmp.sock"))); i++) await sleep(10);
    await log.close();
    if (ended !== undefined || child.pid === undefined)
      throw new Error(`QEMU did not start: ${ended}; see ${join(dir, "qemu.log")}`);
    if (!onTerminal) child.unref();
    await writeFile(join(dir, "pid"), `${child.pid} ${startTimeOf(child.pid) ?? ""}\n`);
    const machine = new Machine(options, child.pid);
    if (options.from !== undefined) await machine.#goOn();
    return machine;
  }

  /** The one that `start` made in this directory before, if it still runs. */
  static find(dir: string, options: Omit<MachineOptions, "dir">): Machine | undefined {
    const [pid, startTime] = existsSync(join(dir, "pid"))
      ? readFileSync(join(dir, "pid"), "utf8").trim().split(" ")
      : [];
    if (pid === undefined || startTimeOf(Number(pid)) !== startTime) return undefined;
    return new Machine({ ...options, dir }, Number(pid));
  }

  isAlive(): boolean {
    return this.#startTime !== undefined && startTimeOf(this.pid) === this.#startTime;
  }

  /** Everything on the serial console so far, without the terminal's own signs. */
  console(): string {
    const path = join(this.options.dir, "serial.log");
    const text = existsSync(path) ? readFileSync(path, "utf8") : "";
    return stripVTControlCharacters(text).replaceAll("\r", "");
  }

  async untilConsole(pattern: RegExp, timeoutMs: number): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const text = this.console();
      if (pattern.test(text)) return text;
      if (!this.isAlive())
        throw new Error(`the machine ended before ${pattern} was on its console:\n${text.slice(-3_000)}`);
      if (Date.now() > deadline)
        throw new Error(`no ${pattern} on the console within ${timeoutMs} ms:\n${text.slice(-3_000)}`);
      await sleep(50);
    }
  }

  /** Types on the terminal at its serial line. */
  async typeKey(text: string): Promise<void> {
    const socket = connect(join(this.options.dir, "serial.sock"));
    await once(socket, "connect");
    socket.end(text);
    await once(socket.resume(), "close");
  }

  async qmp(execute: string, args: Record<string, unknown> = {}): Promise<unknown> {
    return await qmp(join(this.options.dir, "qmp.sock"), execute, args);
  }

  /** Lets a port of the machine be reached on a free port of 127.0.0.1, from now on. */
  async forward(host: number, guest: number): Promise<void> {
    const line = `hostfwd_add net0 tcp:127.0.0.1:${host}-:${guest}`;
    const answer = await this.qmp("human-monitor-command", { "command-line": line });
    if (typeof answer === "string" && answer.trim() !== "") throw new Error(answer.trim());
  }

  /** The power button, for a second; the machine goes down by itself. */
  async pressPower(): Promise<void> {
    await this.qmp("system_powerdown");
  }

  /** Whether it was off within the time. */
  async untilOff(timeoutMs: number): Promise<boolean> {
    const deadline = Date.now() + timeoutMs;
    while (this.isAlive()) {
      if (Date.now() > deadline) return false;
      await sleep(50);
    }
    return true;
  }

  /** It was saved while it stood still, and stands still until it is told. */
  async #goOn(): Promise<void> {
    const deadline = Date.now() + saveTimeoutMs;
    while (((await this.qmp("query-status")) as { status: string }).status === "inmigrate") {
      if (Date.now() > deadline) throw new Error(`the machine in ${this.options.dir} could not be loaded`);
      await sleep(50);
    }
    await this.qmp("cont");
  }

  /** Writes everything but the disks to a file, and ends; `from` goes on there. */
  async save(target: string): Promise<void> {
    await this.qmp("stop");
    await this.qmp("migrate-set-parameters", { "max-bandwidth": 8 * 1024 ** 3 });
    await this.qmp("migrate", { uri: `exec:cat >'${target}'` });
    const deadline = Date.now() + saveTimeoutMs;
    for (;;) {
      const { status } = (await this.qmp("query-migrate")) as { status: string };
      if (status === "completed") break;
      if (status === "failed" || Date.now() > deadline) throw new Error(`the machine could not be saved: ${status}`);
      await sleep(50);
    }
    await this.qmp("quit");
    await this.untilOff(10_000);
  }

  /** Takes the stick out. */
  async pullStick(): Promise<void> {
    await this.qmp("device_del", { id: "stick" });
  }

  /** As if the plug were pulled: what QEMU has not written is lost. */
  async cutPower(): Promise<void> {
    if (this.isAlive()) process.kill(this.pid, "SIGKILL");
    await this.untilOff(10_000);
  }
}

/** Whether connections to a Unix socket are taken: for a moment it is there, and they are refused. */
async function listens(path: string): Promise<boolean> {
  const socket = connect(path);
  const isTaken = await once(socket, "connect").then(
    () => true,
    () => false,
  );
  socket.destroy();
  return isTaken;
}

/** A disk of its own for a machine: holes stay holes, blocks are shared where the filesystem can. */
export async function copyDisk(from: string, to: string): Promise<void> {
  await run(["cp", "--sparse=always", "--reflink=auto", from, to]);
}

/** QEMU's block driver blklogwrites above a raw disk. */
function logged(disk: string, log: string): string {
  return `driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename=${disk},log.driver=file,log.filename=${log}`;
}

function argumentsOf(options: MachineOptions, firmwareDir: string, tpmSocket: string | undefined): string[] {
  const { dir, disks, stick, forwards, tap, kvm, memoryMib = 2048, cpus = 2, serial = "log", from, writeLog } = options;
  const serialLog = `logfile=${join(dir, "serial.log")},logappend=on`;
  const forwarded = forwards.map(([host, guest]) => `,hostfwd=tcp:127.0.0.1:${host}-:${guest}`).join("");
  return [
    ["-M", `q35,accel=${kvm ? "kvm" : "tcg"},smm=off`],
    ["-cpu", kvm ? "host" : "max"],
    ["-smp", String(cpus)],
    ["-m", String(memoryMib)],
    ["-nodefaults", "-display", "none"],
    options.firmware === "bios"
      ? []
      : [
          ["-drive", `if=pflash,format=raw,readonly=on,file=${join(firmwareDir, "OVMF_CODE_4M.fd")}`],
          ["-drive", `if=pflash,format=raw,file=${join(dir, "firmware.fd")}`],
        ].flat(),
    // No cache=unsafe: what the machine flushes is on the host's disk, so that a cut of its power is a true one.
    ...(stick === undefined
      ? []
      : [
          ["-drive", `if=none,id=stick,file=${stick},format=raw,cache=writeback`],
          ["-device", "qemu-xhci,id=usb"],
          ["-device", "usb-storage,id=stick,bus=usb.0,drive=stick,removable=on,bootindex=0"],
        ]),
    ...disks.flatMap((path, i) => [
      [
        "-drive",
        `if=none,id=disk${i},${i === 0 && writeLog !== undefined ? logged(path, writeLog) : `file=${path},format=raw`},discard=unmap,cache=writeback`,
      ],
      ["-device", `virtio-blk-pci,drive=disk${i},serial=disk${i},bootindex=${i + 1}`],
    ]),
    [
      "-netdev",
      tap === undefined ? `user,id=net0${forwarded}` : `tap,id=net0,ifname=${tap.name},script=no,downscript=no`,
    ],
    ["-device", `virtio-net-pci,netdev=net0,romfile=${tap === undefined ? "" : `,mac=${tap.mac}`}`],
    ["-device", "virtio-rng-pci"],
    options.hasWatchdog === false ? [] : ["-device", "i6300esb"],
    from === undefined ? [] : ["-incoming", `exec:cat '${from}'`],
    ["-qmp", `unix:${join(dir, "qmp.sock")},server=on,wait=off`],
    serial === "stdio"
      ? ["-chardev", `stdio,id=serial0,mux=on,signal=off,${serialLog}`]
      : ["-chardev", `socket,id=serial0,path=${join(dir, "serial.sock")},server=on,wait=off,${serialLog}`],
    ["-serial", "chardev:serial0"],
    tpmSocket === undefined
      ? []
      : [
          "-chardev",
          `socket,id=tpm0,path=${tpmSocket}`,
          "-tpmdev",
          "emulator,id=tpm0,chardev=tpm0",
          "-device",
          "tpm-crb,tpmdev=tpm0",
        ],
  ].flat();
}
