/** MicroVMs against their monitor alone with the same kernel and initramfs, and against containers. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { workloadOf } from "../test/support/machines.ts";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { compare, median, ms, noise, type Row, ratioRow, time } from "./measure.ts";

const MiB = 1024 ** 2;
const runs = 5;
const memoryMib = 128;
const copiedMib = 64;
/** After its boot, for its kernel to come to rest; in milliseconds. */
const restMs = 20_000;

export async function machineRows(capsule: TestCapsule): Promise<Row[]> {
  const fields = `  command: [httpd, -f, -p, "8080", -h, /tmp]\n  stopTimeout: 0s`;
  const applied = async (manifest: string): Promise<void> => {
    const { code, stderr } = await capsule.apply(manifest, "--wait=180s");
    if (code !== 0) throw new Error(stderr);
  };
  await applied(workloadOf("Container", "box", "busybox:1", fields));
  const machine = (name: string): string =>
    workloadOf("MicroVM", name, "busybox:1", `${fields}\n  memoryMib: ${memoryMib}`);
  // The first lays the image's base out.
  await applied(machine("vm"));
  const bare = await bareMachine(capsule, "vm");
  const boots = { ours: [] as number[], bare: [] as number[], root: [] as number[] };
  for (let i = 0; i < runs; i++) {
    await applied(machine(`vm${i}`));
    const { bootMs, rootMs } = lastBoot(capsule);
    await capsule.ctl(["workload", "delete", `vm${i}`]);
    boots.ours.push(bootMs);
    boots.root.push(rootMs);
    boots.bare.push(await time(bare));
  }
  await sleep(restMs);
  const idle = await memoryOf(capsule, "vm");
  const exec = await compare(
    11,
    () => capsule.ctl(["workload", "exec", "vm", "--", "true"]),
    () => capsule.ctl(["workload", "exec", "box", "--", "true"]),
  );
  return [
    ratioRow(
      "microVM: start to agent answering, disk included",
      { ours: median(boots.ours) + median(boots.root), bare: median(boots.bare) },
      "its monitor alone, same kernel and initramfs",
      1.15,
    ),
    most("second identical microVM: disk prepared", median(boots.root), 100, ms),
    most(
      `idle microVM of ${memoryMib} MiB: memory, monitor included`,
      idle / 1e6,
      memoryMib + 64,
      (n) => `${n.toFixed(0)} MB`,
    ),
    ratioRow("exec true in a microVM, round trip", exec, "in a container", 1.5),
    ...(await rateRows(capsule)),
  ];
}

/** A row whose figure alone is what counts. */
function most(what: string, value: number, goal: number, text: (value: number) => string): Row {
  return { what, ours: text(value), against: "–", goal: `≤ ${text(goal)}`, result: text(value), met: value <= goal };
}

/** Bytes through the agent and over the network, against the same with a container. */
async function rateRows(capsule: TestCapsule): Promise<Row[]> {
  const file = join(capsule.dir, "copied");
  writeFileSync(file, noise(copiedMib * MiB));
  const rates = async (what: string, work: (name: string) => Promise<unknown>): Promise<Row> => {
    const { ours, bare } = await compare(
      3,
      () => work("vm"),
      () => work("box"),
    );
    const rate = (value: number): string => `${Math.round((copiedMib * 1.048576) / (value / 1_000))} MB/s`;
    const ratio = bare / ours;
    return {
      what,
      ours: rate(ours),
      against: `a container: ${rate(bare)}`,
      goal: "–",
      result: `${ratio.toFixed(2)} ×`,
      met: true,
    };
  };
  const addresses = new Map<string, string>();
  for (const name of ["vm", "box"]) {
    const { status } = JSON.parse(await capsule.ctl(["workload", "get", name, "-o", "json"])) as {
      status: { addresses: string[] };
    };
    addresses.set(name, status.addresses.find((address) => address.includes(".")) ?? "");
  }
  try {
    return [
      await rates(`cp of ${copiedMib} MiB into a microVM`, (name) => capsule.ctl(["cp", file, `${name}:/tmp/copied`])),
      await rates("cp of it out of a microVM", (name) => capsule.ctl(["cp", `${name}:/tmp/copied`, `${file}.out`])),
      await rates("network, a microVM to the capsule", (name) =>
        capsule.host.exec(["wget", "-q", "-O", "/dev/null", `http://${addresses.get(name)}:8080/copied`]),
      ),
    ];
  } finally {
    for (const path of [file, `${file}.out`]) rmSync(path, { force: true });
  }
}

function lastBoot(capsule: TestCapsule): { bootMs: number; rootMs: number } {
  const lines = readFileSync(join(capsule.local.perm, "log/capsuled.log"), "utf8").split("\n");
  const line = lines.filter((one) => one.includes('"bootMs"')).at(-1) ?? "";
  return JSON.parse(line.slice(line.indexOf("{"))) as { bootMs: number; rootMs: number };
}

async function memoryOf(capsule: TestCapsule, name: string): Promise<number> {
  const { workloads } = JSON.parse(await capsule.ctl(["workload", "stats", name, "-o", "json"])) as {
    workloads: { memoryBytes: string }[];
  };
  return Number(workloads[0]?.memoryBytes);
}

/** Boots a machine as that of a workload until its agent is ready: its monitor without jail, disks and network. */
async function bareMachine(capsule: TestCapsule, name: string): Promise<() => Promise<unknown>> {
  const { uid } = await capsule.workload(name);
  const text = await capsule.host.exec(["cat", `/run/capsule/vm/${uid}/monitor.json`]);
  const argv = (JSON.parse(text) as { argv: string[] }).argv.map((word) => word.replaceAll("/run/", "/tmp/bare/"));
  const left = (word: string, next = ""): boolean =>
    ["-add-fd", "-blockdev", "-netdev"].includes(word) || (word === "-device" && /^virtio-(blk|net)/.test(next));
  const kept = argv.filter((word, i) => !left(word, argv[i + 1]) && !left(argv[i - 1] ?? "", word));
  const script = [
    "mkdir -p /tmp/bare; cd /tmp/bare; rm -f control agent",
    `${kept.map((word) => `'${word}'`).join(" ")} </dev/null 2>/dev/null >console & monitor=$!`,
    "while ! grep -q 'capsule-guest: ready' console; do sleep 0.02; done",
    "kill -9 $monitor 2>/dev/null; wait; rm -rf /tmp/bare",
  ].join("\n");
  return async () => await capsule.host.exec(["sh", "-c", script]);
}
