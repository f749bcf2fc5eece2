/** Logs at full speed: bytes per second of the server's processor time, against a file sent over TLS by Node. */
import { spawn } from "node:child_process";
import { copyFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "node:tls";
import { repositoryRoot } from "../image/paths.ts";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { hostPid } from "./host-pid.ts";
import { cpuSeconds, type Row } from "./measure.ts";

const server = `
import { createReadStream } from "node:fs";
import { readFileSync } from "node:fs";
import { createServer } from "node:tls";
import { hostPid } from "./host-pid.ts";
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
  await run();
  const before = cpuSeconds(daemon);
  await run();
  const ours = size / (cpuSeconds(daemon) - before);
  const bare = await bareRate(join(capsule.local.perm, "tls"), file, size, capsule.dir);
  const rate = (value: number): string => `${Math.round(value / 1e6)} MB`;
  return {
    what: "logs at full speed, bytes of the file per second of processor time",
    ours: rate(ours),
    against: `the file over TLS: ${rate(bare)}`,
    goal: "≥ 0.5 ×",
    result: `${(ours / bare).toFixed(2)} ×`,
    met: ours / bare >= 0.5,
  };
}

async function bareRate(tls: string, file: string, size: number, dir: string): Promise<number> {
  const path = join(dir, "tls-server.mjs");
  writeFileSync(path, server);
  copyFileSync(file, join(dir, "log"));
  const child = spawn(process.execPath, [path, tls, join(dir, "log")], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const port = await new Promise<number>((resolve) =>
      child.stdout.once("data", (data: Buffer) => resolve(Number(data))),
    );
    const fetchAll = async (): Promise<void> => {
      const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false });
      let received = 0;
      for await (const chunk of socket as AsyncIterable<Buffer>) received += chunk.length;
      if (received !== size) throw new Error(`${received} of ${size} bytes came`);
    };
    await fetchAll();
    const before = cpuSeconds(child.pid ?? 0);
    await fetchAll();
    await sleep(50);
    return size / (cpuSeconds(child.pid ?? 0) - before);
  } finally {
    child.kill("SIGKILL");
  }
}
