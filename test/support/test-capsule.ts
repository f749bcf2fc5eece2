/** A capsule for acceptance tests: its own state, its own user of capsulectl, gone afterwards. */
import { spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Capsule } from "../../image/namespace/capsule.ts";
import { repositoryRoot } from "../../image/paths.ts";
import { buildImages } from "../images/build.ts";
import type { Host } from "./host.ts";
import type { ListWorkloadsResponseJson, WorkloadJson } from "./json.ts";
import { isMachine } from "./kind.ts";
import { NamespaceHost } from "./namespace-host.ts";
import { type LogWrites, QemuHost } from "./qemu/qemu-host.ts";

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The capsule is a machine, and an emulated one where there is no KVM: everything takes longer. */
export const emulated = process.env["CAPSULE_RUNNER"] === "qemu";

/** A test that waits asks again after so many milliseconds. A machine that is asked all the time does nothing else, so much does an answer take it. */
export const askAgainMs = emulated ? 1_000 : 100;

/**
 * So many times as long a test waits there for what it expects, or where its workloads are emulated; in how much time it comes is not
 * what is tested.
 */
export const patience = emulated || isMachine ? 6 : 1;

const waitOption = /^--wait=([0-9]+)s$/;

/** The wait of a command is one of those limits. */
function patient(arg: string): string {
  return arg.replace(waitOption, (_, seconds) => `--wait=${Number(seconds) * patience}s`);
}

/** How long a command may take: a minute longer than it was told to wait itself, so that it is the one that says what is missing. */
function commandLimitMs(args: readonly string[]): number {
  const waits = args.map((arg) => Number(waitOption.exec(arg)?.[1] ?? 0));
  return (Math.max(60, ...waits) + 60) * 1_000 * patience;
}

export class TestCapsule {
  readonly host: Host;
  readonly dir: string;
  /** Of the server's certificate, lower-case hex. */
  fingerprint = "";

  private constructor(host: Host, dir: string) {
    this.host = host;
    this.dir = dir;
  }

  /** Starts and adopts one; the images of test/images are on it. `name` is made unique. $CAPSULE_RUNNER chooses on what. */
  static async start(name: string, images: readonly string[] = ["busybox", "hello", "bare"]): Promise<TestCapsule> {
    if (emulated) return await TestCapsule.startMachine(name, images);
    const dir = mkdtempSync(join(tmpdir(), `capsule-${name}-`));
    mkdirSync(join(dir, "state"));
    const unique = `t-${name}-${process.pid.toString(36)}`;
    return await TestCapsule.on(await NamespaceHost.start({ name: unique, stateDir: join(dir, "state") }), dir, images);
  }

  /** One in namespaces that nobody has adopted, without images. */
  static async startUnadopted(name: string): Promise<TestCapsule> {
    const dir = mkdtempSync(join(tmpdir(), `capsule-${name}-`));
    mkdirSync(join(dir, "state"));
    const unique = `t-${name}-${process.pid.toString(36)}`;
    const capsule = new TestCapsule(await NamespaceHost.start({ name: unique, stateDir: join(dir, "state") }), dir);
    try {
      await capsule.untilServing();
      return capsule;
    } catch (error) {
      await capsule.stop();
      throw error;
    }
  }

  /** The same on a virtual machine, whatever $CAPSULE_RUNNER says. */
  static async startMachine(name: string, images: readonly string[], logWrites?: LogWrites): Promise<TestCapsule> {
    const dir = mkdtempSync(join(tmpdir(), `capsule-${name}-`));
    return await TestCapsule.on(await QemuHost.goOn(join(dir, "machine"), logWrites), dir, images);
  }

  /** Adopts a capsule that was started in `dir`; stops it when that fails. */
  static async on(host: Host, dir: string, images: readonly string[]): Promise<TestCapsule> {
    const capsule = new TestCapsule(host, dir);
    try {
      const built = await buildImages();
      await capsule.untilServing();
      await capsule.ctl(["adopt", `127.0.0.1:${host.port}`, "--name", "test", "--fingerprint", capsule.fingerprint]);
      for (const image of images) await capsule.ctl(["image", "push", built.get(image) ?? image]);
      return capsule;
    } catch (error) {
      await capsule.stop();
      throw error;
    }
  }

  /** The runner's own view of it. Throws on another runner than the namespace. */
  get local(): Capsule {
    if (this.host instanceof NamespaceHost) return this.host.capsule;
    throw new Error("this needs the namespace runner");
  }

  get configHome(): string {
    return join(this.dir, "config");
  }

  /** Runs capsulectl; throws when it ends with another code than 0. */
  async ctl(
    args: readonly string[],
    input: string | Uint8Array = "",
    timeoutMs = commandLimitMs(args),
  ): Promise<string> {
    const { code, stdout, stderr } = await this.try(args, input, timeoutMs);
    if (code !== 0) throw new Error(`capsulectl ${args.join(" ")} ended with ${code}:\n${stderr}`);
    return stdout;
  }

  /** Runs capsulectl, whatever comes of it; as another user with another `configHome`. A code of -1 is a timeout. */
  async try(
    args: readonly string[],
    input: string | Uint8Array = "",
    timeoutMs = commandLimitMs(args),
    configHome = this.configHome,
  ): Promise<Result> {
    const child = spawn(join(repositoryRoot, "capsulectl"), args.map(patient), {
      env: { PATH: process.env["PATH"] ?? "", HOME: this.dir, XDG_CONFIG_HOME: configHome },
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    });
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
    const chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
    child.stdout.on("data", (chunk: Buffer) => chunks.stdout.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => chunks.stderr.push(chunk));
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (exit) => resolve(exit ?? -1));
    });
    const killed = code === -1 ? `\n(capsulectl did not end within ${timeoutMs} ms)` : "";
    const [stdout, stderr] = [Buffer.concat(chunks.stdout).toString(), Buffer.concat(chunks.stderr).toString()];
    return { code, stdout, stderr: `${stderr}${killed}` };
  }

  /** Applies a manifest given as text. */
  async apply(manifest: string, ...options: string[]): Promise<Result> {
    return await this.try(["apply", "-f", "-", ...options], manifest);
  }

  async workloads(): Promise<WorkloadJson[]> {
    return (JSON.parse(await this.ctl(["workload", "list", "-o", "json"])) as ListWorkloadsResponseJson).workloads;
  }

  async workload(name: string): Promise<WorkloadJson> {
    return JSON.parse(await this.ctl(["workload", "get", name, "-o", "json"])) as WorkloadJson;
  }

  /** Polls a workload until the condition holds. */
  async until(
    name: string,
    holds: (workload: WorkloadJson) => boolean,
    what: string,
    timeoutMs = 20_000 * patience,
  ): Promise<WorkloadJson> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const workload = await this.workload(name);
      if (holds(workload)) return workload;
      if (Date.now() > deadline)
        throw new Error(`${name}: not ${what} within ${timeoutMs} ms: ${JSON.stringify(workload.status)}`);
      await sleep(askAgainMs);
    }
  }

  /** The pid of capsuled, as the capsule sees it; undefined while there is none. */
  async capsuledPid(): Promise<number | undefined> {
    const status = JSON.parse(await this.host.exec(["capsule-init", "ctl", "status"])) as {
      services: { name: string; pid: number | null; state: string }[];
    };
    return status.services.find(({ name }) => name === "capsuled")?.pid ?? undefined;
  }

  /** SIGKILL, as a crash would be. */
  async killCapsuled(): Promise<void> {
    const pid = await this.capsuledPid();
    if (pid === undefined) return;
    // Gone when this resolves: its port would still be seen as one that serves.
    await this.host.exec(["sh", "-c", `kill -9 ${pid}; while kill -0 ${pid} 2>/dev/null; do sleep 0.02; done`]);
  }

  /** Starts capsuled now, after a kill: not when the wait is over that capsule-init makes longer with each. */
  async startCapsuled(): Promise<void> {
    await this.host.exec(["capsule-init", "ctl", "start", "capsuled"]);
  }

  async untilServing(timeoutMs = 120_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    // State 0A is LISTEN (proc_net(5)): connections of a capsuled that was killed stay in the table for a while.
    const listens = "grep -q ':C350 [0-9A-F]*:0000 0A ' /proc/net/tcp6";
    for (;;) {
      const served = await this.host.exec(["sh", "-c", `${listens} && cat /perm/tls/server.crt`]).catch(() => "");
      if (served !== "") {
        this.fingerprint = createHash("sha256").update(new X509Certificate(served).raw).digest("hex");
        return;
      }
      if (Date.now() > deadline) throw new Error(`capsuled does not serve: ${await this.log()}`);
      await sleep(askAgainMs);
    }
  }

  /** The end of capsuled's log, for a failure. */
  async log(): Promise<string> {
    return await this.host.exec(["tail", "-n", "30", "/perm/log/capsuled.log"]).catch(() => "no log");
  }

  async stop(): Promise<void> {
    await this.host.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
