/** A capsule in a virtual machine: the image as it is built, and beside its initramfs an agent for the tests. */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { type IncomingMessage, request } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { diskPath } from "../../../image/image.ts";
import { buildKernel } from "../../../image/kernel.ts";
import { kvmWorks } from "../../../image/qemu/kvm.ts";
import { copyDisk, Machine, type MachineOptions } from "../../../image/qemu/machine.ts";
import { CommandError } from "../../../image/run.ts";
import type { Host } from "../host.ts";
import { addAgent, agentPort } from "./agent.ts";
import { copySaved, savedMachine } from "./saved-machine.ts";

const bootTimeoutMs = 240_000;
/** For a command, and for one that only asks whether somebody is there; in milliseconds. */
const commandMs = 60_000;
const answerMs = 3_000;

export interface QemuHostOptions {
  readonly dir: string;
  /** Further disks of the machine: paths of raw images. */
  readonly disks?: readonly string[];
  /** The image is on a stick on USB, and `disks` are those inside the machine. */
  readonly isStick?: boolean;
  readonly memoryMib?: number;
  readonly tpm?: boolean;
  /** Default true. */
  readonly hasWatchdog?: boolean;
  /** Called with the disk before it is booted for the first time. */
  readonly prepare?: (disk: string) => Promise<void>;
}

export type LogWrites = (disk: string) => Promise<string>;

export class QemuHost implements Host {
  readonly runner = "qemu";
  readonly port: number;
  readonly #agent: number;
  readonly #options: QemuHostOptions;
  readonly #endpoints = new Map<number, number>();
  machine: Machine;

  private constructor(options: QemuHostOptions, ports: { api: number; agent: number }, machine: Machine) {
    this.#options = options;
    this.port = ports.api;
    this.#agent = ports.agent;
    this.machine = machine;
  }

  /**
   * A machine that goes on from where another one's API first answered (saved-machine.ts). `logWrites` is called with its disk before
   * that, and returns the path of the log for what is written until the machine is next powered off.
   */
  static async goOn(dir: string, logWrites?: LogWrites): Promise<QemuHost> {
    const saved = await savedMachine(bootAndSave);
    await copySaved(saved, dir);
    const options = { dir };
    const ports = { api: await freePort(), agent: await freePort() };
    const logged = logWrites === undefined ? {} : { writeLog: await logWrites(join(dir, "disk.raw")) };
    const host = new QemuHost(options, ports, await powerOn(options, ports, { from: saved.state, ...logged }));
    await host.#untilAgentOrOff();
    // Its clock stood still.
    await host.exec(["date", "-u", "-s", `@${Math.round(Date.now() / 1000)}`]);
    return host;
  }

  /** A machine that boots from a blank disk. */
  static async start(options: QemuHostOptions): Promise<QemuHost> {
    if (!existsSync(diskPath)) throw new Error("build/disk.raw is missing: run `make image`");
    await mkdir(options.dir, { recursive: true });
    const disk = join(options.dir, "disk.raw");
    await copyDisk(diskPath, disk);
    await addAgent(disk, options.dir);
    await options.prepare?.(disk);
    const ports = { api: await freePort(), agent: await freePort() };
    const host = new QemuHost(options, ports, await powerOn(options, ports));
    await host.#untilAgentOrOff();
    return host;
  }

  async #untilAgentOrOff(): Promise<void> {
    await this.untilAgent().catch(async (error: unknown) => {
      await this.machine.cutPower();
      throw error;
    });
  }

  async untilAgent(): Promise<void> {
    const deadline = Date.now() + bootTimeoutMs;
    for (;;) {
      const up = await this.#call(["true"], "", answerMs).then(
        () => true,
        () => false,
      );
      if (up) return;
      if (!this.machine.isAlive() || Date.now() > deadline)
        throw new Error(`the machine did not come up:\n${this.machine.console().slice(-3_000)}`);
      await sleep(200);
    }
  }

  async exec(argv: readonly string[], input = ""): Promise<string> {
    return await this.#call(argv, input, commandMs);
  }

  async #call(argv: readonly string[], input: string, timeoutMs: number): Promise<string> {
    const words = JSON.stringify({ argv, input: Buffer.from(input).toString("base64") });
    const answer = JSON.parse(await post(this.#agent, words, timeoutMs)) as {
      code: number;
      stdout: string;
      stderr: string;
    };
    if (answer.code !== 0) throw new CommandError(argv, answer.code, answer.stderr);
    return Buffer.from(answer.stdout, "base64").toString("utf8");
  }

  async endpoint(port: number): Promise<string> {
    let local = this.#endpoints.get(port);
    if (local === undefined) {
      local = await freePort();
      await this.machine.forward(local, port);
      this.#endpoints.set(port, local);
    }
    return `127.0.0.1:${local}`;
  }

  /** Another one after each boot. */
  async bootId(): Promise<string> {
    return (await this.#call(["cat", "/proc/sys/kernel/random/boot_id"], "", answerMs)).trim();
  }

  /** Resolves when the machine has come up again by itself. */
  async untilRebooted(before: string): Promise<void> {
    const deadline = Date.now() + bootTimeoutMs;
    while ((await this.bootId().catch(() => before)) === before) {
      if (Date.now() > deadline)
        throw new Error(`the machine did not come up again:\n${this.machine.console().slice(-2_000)}`);
      await sleep(500);
    }
  }

  async cutPower(): Promise<void> {
    await this.machine.cutPower();
  }

  async startAgain(): Promise<void> {
    this.#endpoints.clear();
    this.machine = await powerOn(this.#options, { api: this.port, agent: this.#agent });
    await this.untilAgent();
  }

  async stop(): Promise<void> {
    if (!this.machine.isAlive()) return;
    await this.machine.pressPower();
    if (await this.machine.untilOff(60_000)) return;
    const console = this.machine.console().slice(-2_000);
    await this.machine.cutPower();
    throw new Error(`the machine did not go down by its power button within 60 s:\n${console}`);
  }
}

async function bootAndSave(dir: string): Promise<void> {
  const host = await QemuHost.start({ dir });
  try {
    await host.machine.untilConsole(/^Any key/m, bootTimeoutMs);
    // What runs beside the start comes to its end.
    await sleep(5_000);
    await host.machine.save(join(dir, "state"));
  } finally {
    await host.cutPower();
  }
}

function disksOf({ dir, disks = [], isStick = false }: QemuHostOptions): { disks: readonly string[]; stick?: string } {
  const image = join(dir, "disk.raw");
  return isStick ? { disks, stick: image } : { disks: [image, ...disks] };
}

async function powerOn(
  options: QemuHostOptions,
  ports: { api: number; agent: number },
  first: Pick<MachineOptions, "from" | "writeLog"> = {},
): Promise<Machine> {
  const kvm = await kvmWorks((await buildKernel()).vmlinuz);
  return await Machine.start({
    dir: options.dir,
    ...disksOf(options),
    forwards: [
      [ports.api, 50_000],
      [ports.agent, agentPort],
    ],
    kvm,
    // Emulated, two tests at once have a core each: processors that wait for one another's locks would take a fifth more.
    cpus: kvm ? 2 : 1,
    memoryMib: options.memoryMib ?? 2_048,
    tpm: options.tpm ?? false,
    hasWatchdog: options.hasWatchdog ?? true,
    temporary: true,
    ...first,
  });
}

/** A connection of its own: one that was kept would outlive the machine at its other end, and nobody would tell. */
async function post(port: number, body: string, timeoutMs: number): Promise<string> {
  const signal = AbortSignal.timeout(timeoutMs);
  const call = request({ host: "127.0.0.1", port, method: "POST", agent: false, signal });
  call.on("error", () => undefined); // told by `once` and `text`
  call.end(body);
  const [response] = (await once(call, "response", { signal })) as [IncomingMessage];
  return await text(response);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (address === null || typeof address === "string") throw new Error("no free port");
  return address.port;
}

if (import.meta.main) {
  await savedMachine(bootAndSave);
  console.log("The machine that the suite goes on from has been booted.");
}
