/** A capsule for acceptance tests: its own state, its own user of capsulectl, gone afterwards. */
import { spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Capsule, startCapsule } from "../../image/namespace/capsule.ts";
import { repositoryRoot } from "../../image/paths.ts";
import { buildImages } from "../images/build.ts";
import type { ListWorkloadsResponseJson, WorkloadJson } from "./json.ts";

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class TestCapsule {
  readonly host: Capsule;
  readonly dir: string;

  private constructor(host: Capsule, dir: string) {
    this.host = host;
    this.dir = dir;
  }

  /** Starts and adopts one; the images of test/images are on it. `name` is made unique; `prepare` sees its empty state. */
  static async start(
    name: string,
    images: readonly string[] = ["busybox", "hello", "bare"],
    prepare: (stateDir: string) => void = () => undefined,
  ): Promise<TestCapsule> {
    const built = await buildImages();
    const dir = mkdtempSync(join(tmpdir(), `capsule-${name}-`));
    mkdirSync(join(dir, "state"));
    prepare(join(dir, "state"));
    const host = await startCapsule({ name: `t-${name}-${process.pid.toString(36)}`, stateDir: join(dir, "state") });
    const capsule = new TestCapsule(host, dir);
    try {
      await capsule.untilServing();
      await capsule.ctl(["adopt", `127.0.0.1:${host.port}`, "--name", "test", "--fingerprint", capsule.fingerprint]);
      for (const image of images) await capsule.ctl(["image", "push", built.get(image) ?? image]);
      return capsule;
    } catch (error) {
      await capsule.stop();
      throw error;
    }
  }

  get configHome(): string {
    return join(this.dir, "config");
  }

  get fingerprint(): string {
    const certificate = new X509Certificate(readFileSync(join(this.host.perm, "tls/server.crt")));
    return createHash("sha256").update(certificate.raw).digest("hex");
  }

  /** Runs capsulectl; throws when it ends with another code than 0. */
  async ctl(args: readonly string[], input: string | Uint8Array = "", timeoutMs = 120_000): Promise<string> {
    const { code, stdout, stderr } = await this.try(args, input, timeoutMs);
    if (code !== 0) throw new Error(`capsulectl ${args.join(" ")} ended with ${code}:\n${stderr}`);
    return stdout;
  }

  /** Runs capsulectl, whatever comes of it; as another user with another `configHome`. A code of -1 is a timeout. */
  async try(
    args: readonly string[],
    input: string | Uint8Array = "",
    timeoutMs = 120_000,
    configHome = this.configHome,
  ): Promise<Result> {
    const child = spawn(join(repositoryRoot, "capsulectl"), args, {
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
    return { code, stdout: Buffer.concat(chunks.stdout).toString(), stderr: Buffer.concat(chunks.stderr).toString() };
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
    timeoutMs = 20_000,
  ): Promise<WorkloadJson> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const workload = await this.workload(name);
      if (holds(workload)) return workload;
      if (Date.now() > deadline)
        throw new Error(`${name}: not ${what} within ${timeoutMs} ms: ${JSON.stringify(workload.status)}`);
      await sleep(100);
    }
  }

  /** The pid of capsuled on this host; undefined while there is none. */
  async capsuledPid(): Promise<number | undefined> {
    const status = JSON.parse(await this.host.exec(["capsule-init", "ctl", "status"])) as {
      services: { name: string; pid: number | null; state: string }[];
    };
    const inside = status.services.find(({ name }) => name === "capsuled")?.pid ?? undefined;
    if (inside === undefined || inside === 0) return undefined;
    return this.hostPid(inside);
  }

  /** The pid on this host of a process in the capsule, by the innermost of its NSpid (proc(5)). */
  hostPid(inside: number): number | undefined {
    return hostPids(this.host.initPid).get(inside);
  }

  async untilServing(timeoutMs = 30_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!existsSync(join(this.host.perm, "tls/server.crt"))) {
      if (Date.now() > deadline) throw new Error(`capsuled does not start: ${this.log()}`);
      await sleep(20);
    }
    for (;;) {
      const served = await this.host.exec(["sh", "-c", "grep -q :C350 /proc/net/tcp6 && echo yes || true"]);
      if (served.includes("yes")) return;
      if (Date.now() > deadline) throw new Error(`capsuled does not serve: ${this.log()}`);
      await sleep(20);
    }
  }

  /** The end of capsuled's log, for a failure. */
  log(): string {
    const path = join(this.host.perm, "log/capsuled.log");
    return existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(-30).join("\n") : "no log";
  }

  async stop(): Promise<void> {
    await this.host.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Pid inside → pid on this host, of every process below a capsule's PID 1. */
function hostPids(initPid: number): Map<number, number> {
  const found = new Map<number, number>();
  const visit = (pid: number): void => {
    let status: string;
    let children: string;
    try {
      status = readFileSync(`/proc/${pid}/status`, "utf8");
      children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    } catch {
      return; // ended meanwhile
    }
    const ids = /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/) ?? [];
    // The second is the one in the capsule; containers have namespaces below it.
    if (ids[1] !== undefined) found.set(Number(ids[1]), pid);
    for (const child of children.trim().split(" ")) if (child !== "") visit(Number(child));
  };
  visit(initPid);
  return found;
}
