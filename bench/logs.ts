/** Logs at full speed: bytes per second of the server's processor time, against a file sent over TLS by Node. */
import { spawn } from "node:child_process";
import { copyFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "node:tls";
import { repositoryRoot } from "../image/paths.ts";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { hostPid } from "./host-pid.ts";
import { cpuSeconds, median, type Row } from "./measure.ts";

const pairs = 7;

const server = `
import { createReadStream } from "node:fs";
import { readFileSync } from "node:fs";
import { createServer } from "node:tls";
const [, , dir, file] = process.argv;
const server = createServer({ key: readFileSync(dir + "/server.key"), cert: readFileSync(dir + "/server.crt"), minVersion: "TLSv1.3" }, (socket) => createReadStream(file).pipe(socket));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
`;

export async function logsRow(capsule: TestCapsule): Promise<Row> {
  const lines = 1_500_000;
  const script = `yes 'a line of a log as programs write them, with some eighty characters or so in it' | head -n ${lines}`;
  const manifest = `kind: Container\nname: talker\ncontainer: {image: "busybox:1", command: [sh, -c, "${script}"], restartPolicy: NEVER, logs: {maxBytes: 1GiB, maxFiles: 2}}\n`;
  await capsule.apply(manifest, "--wait=60s");
  await capsule.until("talker", ({ status }) => status.phase === "PHASE_STOPPED", "done", 60_000);
  const { uid } = await capsule.workload("talker");
  const dir = join(capsule.local.perm, "workloads", uid, "log");
  const file = join(dir, readdirSync(dir)[0] ?? "current.log");
  const size = statSync(file).size;
  const daemon = hostPid(capsule.local.initPid, (await capsule.capsuledPid()) ?? 0) ?? 0;
  const run = async (): Promise<void> => {
    const child = spawn(join(repositoryRoot, "capsulectl"), ["workload", "logs", "talker"], {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, XDG_CONFIG_HOME: capsule.configHome },
    });
    await new Promise((resolve) => child.once("close", resolve));
  };
  const oursSeconds = async (): Promise<number> => await secondsOf(daemon, run);
  const bare = await startBare(join(capsule.local.perm, "tls"), file, size, capsule.dir);
  const times = { ours: [] as number[], bare: [] as number[] };
  try {
    // The first of each is to warm up.
    for (let i = 0; i <= pairs; i++) {
      const pair = [await oursSeconds(), await bare.seconds()] as const;
      if (i === 0) continue;
      times.ours.push(pair[0]);
      times.bare.push(pair[1]);
    }
  } finally {
    bare.stop();
  }
  const [ours, against] = [size / median(times.ours), size / median(times.bare)];
  const rate = (value: number): string => `${Math.round(value / 1e6)} MB`;
  return {
    what: "logs at full speed, bytes of the file per second of processor time",
    ours: rate(ours),
    against: `the file over TLS: ${rate(against)}`,
    goal: "≥ 0.5 ×",
    result: `${(ours / against).toFixed(2)} ×`,
    met: ours / against >= 0.5,
  };
}

/** Processor time of a process while `work` is done. */
async function secondsOf(pid: number, work: () => Promise<void>): Promise<number> {
  const before = cpuSeconds(pid);
  await work();
  await sleep(50);
  return cpuSeconds(pid) - before;
}

async function startBare(
  tls: string,
  file: string,
  size: number,
  dir: string,
): Promise<{ seconds(): Promise<number>; stop(): void }> {
  const path = join(dir, "tls-server.mjs");
  writeFileSync(path, server);
  copyFileSync(file, join(dir, "log"));
  const child = spawn(process.execPath, [path, tls, join(dir, "log")], { stdio: ["ignore", "pipe", "inherit"] });
  const port = await new Promise<number>((resolve) =>
    child.stdout.once("data", (data: Buffer) => resolve(Number(data))),
  );
  const fetchAll = async (): Promise<void> => {
    const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false });
    let received = 0;
    for await (const chunk of socket as AsyncIterable<Buffer>) received += chunk.length;
    if (received !== size) throw new Error(`${received} of ${size} bytes came`);
  };
  return {
    seconds: async () => await secondsOf(child.pid ?? 0, fetchAll),
    stop: () => void child.kill("SIGKILL"),
  };
}
