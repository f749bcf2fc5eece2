/**
 * `make bench`: every row of the goals that applies so far, against the bare tool in the same capsule in the same run.
 * Prints the table and writes build/bench.json. ROWS=regex picks rows.
 */
import { spawn } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildDir, repositoryRoot } from "../image/paths.ts";
import { buildImages } from "../test/images/build.ts";
import { writeImage } from "../test/images/image.ts";
import { TestCapsule } from "../test/support/test-capsule.ts";
import { apiRow } from "./api.ts";
import { fioRows } from "./fio.ts";
import { hostPid } from "./host-pid.ts";
import { logsRow } from "./logs.ts";
import { compare, cpuSeconds, median, ms, noise, type Row, ratioRow, residentMb, time } from "./measure.ts";
import { machineRows } from "./microvm.ts";
import { storageRows } from "./storage.ts";

const many = 200;
// Not capsuled's: what belongs to no workload is removed there.
const ctr = ["ctr", "-n", "bench"];
const image = "docker.io/library/bare:1";

const rows: Row[] = [];
const chosen = new RegExp(process.env["ROWS"] ?? "", "i");

async function row(name: string, measure: () => Promise<Row | readonly Row[]>): Promise<void> {
  if (!chosen.test(name)) return;
  const made = await measure();
  for (const one of Array.isArray(made) ? made : [made as Row]) {
    rows.push(one);
    console.log(
      `${one.met ? "met   " : "missed"} ${one.what}: ${one.ours}, ${one.against} → ${one.result} (goal ${one.goal})`,
    );
  }
}

const one = (name: string, image_ = "bare:1"): string =>
  `kind: Container\nname: ${name}\ncontainer: {image: "${image_}", stopTimeout: 0s}\n`;

const capsule = await TestCapsule.start("bench", ["bare", "busybox"]);
try {
  const exec = (args: readonly string[]) => capsule.host.exec(args);
  const pid = async (): Promise<number> => hostPid(capsule.local.initPid, (await capsule.capsuledPid()) ?? 0) ?? 0;
  copyFileSync((await buildImages()).get("bare") ?? "", join(capsule.local.perm, "bare.tar"));
  await exec([...ctr, "images", "import", "/perm/bare.tar"]);

  await row("rest", async () => {
    await sleep(3_000);
    const rss = residentMb(await pid());
    return {
      what: "capsuled at rest, no workload: resident memory",
      ours: `${rss.toFixed(0)} MB`,
      against: "–",
      goal: "≤ 80 MB",
      result: `${rss.toFixed(0)} MB`,
      met: rss <= 80,
    };
  });

  await row("apply-one", async () => {
    const times = await compare(
      11,
      (i) => capsule.apply(one(`a${i}`), "--wait=30s"),
      (i) => exec([...ctr, "run", "-d", image, `bare-${i}`]),
    );
    for (let i = 0; i < 11; i++) {
      await exec([...ctr, "task", "kill", "-s", "KILL", `bare-${i}`]);
      await exec([...ctr, "task", "delete", "-f", `bare-${i}`]).catch(() => "");
      await exec([...ctr, "container", "delete", `bare-${i}`]).catch(() => "");
    }
    await capsule.ctl(["workload", "delete", ...Array.from({ length: 11 }, (_, i) => `a${i}`)]);
    return ratioRow("apply of one container to RUNNING, as `--wait` sees it", times, "ctr run -d", 1.5);
  });

  await row("exec", async () => {
    await capsule.apply(one("x", "busybox:1").replace("{image", "{command: [sleep, 1d], image"), "--wait=30s");
    const { uid } = await capsule.workload("x");
    const times = await compare(
      15,
      () => capsule.ctl(["workload", "exec", "x", "--", "true"]),
      (i) => exec(["ctr", "-n", "capsule", "task", "exec", "--exec-id", `e${i}`, uid, "true"]),
    );
    return ratioRow("exec true, round trip", times, "ctr task exec", 1.5);
  });

  await row("list", async () => {
    const node = join(repositoryRoot, "node_modules/.bin/node");
    const times = await compare(
      15,
      () => capsule.ctl(["workload", "list"]),
      () => new Promise((resolve) => spawn(node, ["-e", "0"]).once("close", resolve)),
    );
    const more = times.ours - times.bare;
    return {
      what: "capsulectl workload list, warm, whole process",
      ours: ms(times.ours),
      against: `node -e 0: ${ms(times.bare)}`,
      goal: "≤ + 120 ms",
      result: `+ ${ms(more)}`,
      met: more <= 120,
    };
  });

  await row("cp", async () => await copyRows());

  await row("push", async () => await pushRows());

  await row("logs", async () => await logsRow(capsule));

  await row("fio", async () => await fioRows(capsule));
  await row("storage", async () => await storageRows(capsule));

  await row("microvm", async () => await machineRows(capsule));

  await row("many", async () => await manyRows());

  await row("api", async () => await apiRow());

  async function copyRows(): Promise<Row[]> {
    await capsule.apply(one("x", "busybox:1").replace("{image", "{command: [sleep, 1d], image"), "--wait=30s");
    const { uid } = await capsule.workload("x");
    const big = join(capsule.dir, "big");
    await new Promise<void>((resolve, reject) =>
      spawn("dd", ["if=/dev/urandom", `of=${big}`, "bs=1M", "count=1024"], { stdio: "ignore" }).once("close", (code) =>
        code === 0 ? resolve() : reject(new Error("dd")),
      ),
    ); // no zeros: nothing may be sparse
    const nsenter = ["nsenter", "-t", String(capsule.local.initPid), "-m", "-u", "-i", "-n", "-p", "-C", "--"];
    const shell = (line: string): Promise<void> =>
      new Promise((resolve, reject) =>
        spawn("sh", ["-c", line], { stdio: ["ignore", "inherit", "inherit"] }).once("close", (code) =>
          code === 0 ? resolve() : reject(new Error(`${line}: ${code}`)),
        ),
      );
    let n = 0;
    const into = `${nsenter.join(" ")} ctr -n capsule task exec --exec-id`;
    const inward = await compare(
      3,
      () => capsule.ctl(["cp", big, "x:/in"]),
      () => shell(`tar -C ${capsule.dir} -cf - big | ${into} ci${n++} ${uid} tar -C /tmp -xf -`),
    );
    const outward = await compare(
      3,
      () => capsule.ctl(["cp", "x:/in", join(capsule.dir, "out")]),
      () => shell(`${into} co${n++} ${uid} tar -C /tmp -cf - big | tar -C ${capsule.dir} -xf - big`),
    );
    const throughput = (what: string, times: { ours: number; bare: number }): Row => {
      const mbs = (value: number): string => `${Math.round((1024 * 1.048576) / (value / 1000))} MB/s`;
      const ratio = times.bare / times.ours;
      return {
        what,
        ours: mbs(times.ours),
        against: `tar through ctr task exec: ${mbs(times.bare)}`,
        goal: "≥ 1.0 ×",
        result: `${ratio.toFixed(2)} ×`,
        met: ratio >= 1,
      };
    };
    return [throughput("cp of 1 GiB into a container", inward), throughput("cp of 1 GiB out of a container", outward)];
  }

  async function pushRows(): Promise<Row[]> {
    const path = join(capsule.local.perm, "large.tar");
    // Each layer differs, and none can be compressed away.
    const layers = Array.from({ length: 5 }, (_, i) => [
      { path: `f${i}`, type: "file" as const, data: noise(100_000_000, i) },
    ]);
    await writeImage({ name: "large:1", layers }, path);
    const remove = async (namespace: string): Promise<void> => {
      await exec(["ctr", "-n", namespace, "images", "rm", "--sync", "docker.io/library/large:1"]);
    };
    const daemon = await pid();
    // The same with a fifth of the size first: memory is constant when it does not grow with the image.
    const small = join(capsule.local.perm, "small.tar");
    await writeImage({ name: "small:1", layers: layers.slice(0, 1) }, small);
    await capsule.ctl(["image", "push", small]);
    const smallPeak = residentMb(daemon, "VmHWM");
    await exec(["ctr", "-n", "capsule", "images", "rm", "--sync", "docker.io/library/small:1"]);
    const times = await compare(
      3,
      async () => await capsule.ctl(["image", "push", path]).finally(() => remove("capsule")),
      async () => await exec([...ctr, "images", "import", "/perm/large.tar"]).finally(() => remove("bench")),
    );
    const peak = residentMb(daemon, "VmHWM");
    const ratio = times.bare / times.ours;
    const mbs = (value: number): string => `${Math.round(statSync(path).size / 1e6 / (value / 1000))} MB/s`;
    return [
      {
        what: "image push of 500 MB",
        ours: mbs(times.ours),
        against: `ctr images import: ${mbs(times.bare)}`,
        goal: "≥ 0.9 ×",
        result: `${ratio.toFixed(2)} ×`,
        met: ratio >= 0.9,
      },
      {
        what: "… resident memory of capsuled, at most",
        ours: `${peak.toFixed(0)} MB`,
        against: `100 MB: ${smallPeak.toFixed(0)} MB`,
        goal: "constant",
        result: `${(peak / smallPeak).toFixed(2)} ×`,
        met: peak / smallPeak <= 1.1,
      },
    ];
  }

  async function manyRows(): Promise<Row[]> {
    // One that has not taken the pushes before: what it holds is of the workloads.
    process.kill(await pid(), "SIGKILL");
    await sleep(500);
    await capsule.untilServing();
    const bare = await time(async () => {
      let next = 0;
      const worker = async (): Promise<void> => {
        for (let i = next++; i < many; i = next++) await exec([...ctr, "run", "-d", image, `m-${i}`]);
      };
      await Promise.all(Array.from({ length: 4 }, worker));
    });
    await exec([
      "sh",
      "-c",
      "for i in $(ctr -n bench t ls -q | grep ^m-); do ctr -n bench t kill -s KILL $i; done; sleep 2; for i in $(ctr -n bench t ls -q | grep ^m-); do ctr -n bench t rm -f $i >/dev/null; done; for i in $(ctr -n bench c ls -q | grep ^m-); do ctr -n bench c rm $i; done",
    ]);
    const manifest = Array.from({ length: many }, (_, i) => one(`m${i}`)).join("---\n");
    const ours = await time(async () => {
      const { code, stderr } = await capsule.apply(manifest, "--wait=5m");
      if (code !== 0) throw new Error(stderr.slice(-500));
    });
    await sleep(5_000);
    const daemon = await pid();
    const cpuBefore = cpuSeconds(daemon);
    const seconds = 60;
    await sleep(seconds * 1_000);
    const cpu = ((cpuSeconds(daemon) - cpuBefore) / seconds) * 100;
    const rss = residentMb(daemon);
    const restarts: number[] = [];
    for (let i = 0; i < 3; i++) {
      process.kill(await pid(), "SIGKILL");
      await sleep(500);
      await capsule.untilServing();
      await sleep(2_500);
      const adopted = [
        ...readFileSync(join(capsule.local.perm, "log/capsuled.log"), "utf8").matchAll(/"sinceStartMs":([0-9]+)/g),
      ].at(-1)?.[1];
      restarts.push(Number(adopted));
    }
    const restart = median(restarts);
    return [
      ratioRow(`${many} containers from one file, all RUNNING`, { ours, bare }, "ctr run -d, 4 at a time", 1),
      {
        what: `capsuled idle with ${many} containers: processor`,
        ours: `${cpu.toFixed(2)} %`,
        against: "–",
        goal: "< 1 %",
        result: `${cpu.toFixed(2)} %`,
        met: cpu < 1,
      },
      {
        what: `capsuled idle with ${many} containers: resident memory`,
        ours: `${rss.toFixed(0)} MB`,
        against: "–",
        goal: "≤ 120 MB",
        result: `${rss.toFixed(0)} MB`,
        met: rss <= 120,
      },
      {
        what: `restart of capsuled with ${many} running, to all observed`,
        ours: ms(restart),
        against: "–",
        goal: "≤ 2 s",
        result: ms(restart),
        met: restart <= 2_000,
      },
    ];
  }
} finally {
  await capsule.stop();
}

const [cpu] = cpus();
const machine = `${cpus().length} × ${cpu?.model ?? "?"}, ${Math.round(totalmem() / 2 ** 30)} GiB, kernel ${release()}`;
const date = new Date().toISOString().slice(0, 10);
mkdirSync(buildDir, { recursive: true });
writeFileSync(join(buildDir, "bench.json"), `${JSON.stringify({ date, machine, rows }, undefined, 2)}\n`);
const table = rows.map(
  (r) => `| ${r.what} | ${r.ours} | ${r.against} | ${r.goal} | ${r.result} | ${r.met ? "met" : "**missed**"} |`,
);
const text = [
  `Measured on ${date}: ${machine}.`,
  "",
  "| what | ours | against | goal | result | |",
  "| --- | --- | --- | --- | --- | --- |",
  ...table,
  "",
].join("\n");
writeFileSync(join(buildDir, "bench.md"), text);
console.log(`\n${text}`);
