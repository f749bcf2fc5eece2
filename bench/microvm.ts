/** MicroVMs against their monitor alone with the same kernel and initramfs, and against containers. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { workloadOf } from "../test/support/machines.ts";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { bareTap } from "./bare-tap.ts";
import { compare, median, ms, noise, type Row, ratioRow, time } from "./measure.ts";

const MiB = 1024 ** 2;
const runs = 5;
const memoryMib = 128;
const copiedMib = 64;
/** After its boot, for its kernel to come to rest; in milliseconds. */
const restMs = 20_000;

const fields = `  command: [httpd, -f, -p, "8080", -h, /tmp]\n  stopTimeout: 0s`;

function machine(name: string, mib = memoryMib): string {
  return workloadOf("MicroVM", name, "busybox:1", `${fields}\n  memoryMib: ${mib}`);
}

async function applied(capsule: TestCapsule, manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=180s");
  if (code !== 0) throw new Error(stderr);
}

export async function machineRows(capsule: TestCapsule): Promise<Row[]> {
  await applied(capsule, workloadOf("Container", "box", "busybox:1", fields));
  // The first lays the image's base out.
  await applied(capsule, machine("vm"));
  const bare = await bareMachine(capsule, "vm");
  const boots = { ours: [] as number[], bare: [] as number[], root: [] as number[] };
  for (let i = 0; i < runs; i++) {
    await applied(capsule, machine(`vm${i}`));
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
    plainRow(`idle microVM of ${memoryMib} MiB: memory, monitor included`, `${(idle / 1e6).toFixed(0)} MB`),
    ratioRow("exec true in a microVM, round trip", exec, "in a container", 1.5),
    ...(await rateRows(capsule)),
  ];
}

/** A row whose figure alone is what counts. */
function most(what: string, value: number, goal: number, text: (value: number) => string): Row {
  return { what, ours: text(value), against: "–", goal: `≤ ${text(goal)}`, result: text(value), met: value <= goal };
}

/** A row that has no goal. */
function plainRow(what: string, ours: string): Row {
  return { what, ours, against: "–", goal: "–", result: ours, met: true };
}

/** Bytes through the agent, against the same with a container, and over the network, against a bare machine. */
async function rateRows(capsule: TestCapsule): Promise<Row[]> {
  const file = join(capsule.dir, "copied");
  writeFileSync(file, noise(copiedMib * MiB));
  const tap = await bareTap(file);
  try {
    const into = await compare(
      3,
      () => capsule.ctl(["cp", file, "vm:/tmp/copied"]),
      () => capsule.ctl(["cp", file, "box:/tmp/copied"]),
    );
    const out = await compare(
      3,
      () => capsule.ctl(["cp", "vm:/tmp/copied", `${file}.out`]),
      () => capsule.ctl(["cp", "box:/tmp/copied", `${file}.out`]),
    );
    // As much memory as the bare one has: both have the file in it.
    await applied(capsule, machine("net", 512));
    await capsule.ctl(["cp", file, "net:/tmp/copied"]);
    const url = `http://${await addressOf(capsule, "net")}:8080/copied`;
    const fetched = await compare(
      5,
      () => capsule.host.exec(["wget", "-q", "-O", "/dev/null", url]),
      () => tap.fetch(),
    );
    return [
      rateRow(`cp of ${copiedMib} MiB into a microVM`, into, "a container"),
      rateRow("cp of it out of a microVM", out, "a container"),
      rateRow("network, a microVM to the capsule", fetched, "the same guest on a bare TAP"),
    ];
  } finally {
    await tap.stop();
    for (const path of [file, `${file}.out`]) rmSync(path, { force: true });
  }
}

/** A row of two rates that has no goal. */
function rateRow(what: string, { ours, bare }: { ours: number; bare: number }, against: string): Row {
  const rate = (value: number): string => `${Math.round((copiedMib * 1.048576) / (value / 1_000))} MB/s`;
  return {
    what,
    ours: rate(ours),
    against: `${against}: ${rate(bare)}`,
    goal: "–",
    result: `${(bare / ours).toFixed(2)} ×`,
    met: true,
  };
}

async function addressOf(capsule: TestCapsule, name: string): Promise<string> {
  const { status } = JSON.parse(await capsule.ctl(["workload", "get", name, "-o", "json"])) as {
    status: { addresses: string[] };
  };
  return status.addresses.find((address) => address.includes(".")) ?? "";
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
    "mkdir -p /tmp/bare; cd /tmp/bare; rm -f control agent console; mkfifo console",
    `${kept.map((word) => `'${word}'`).join(" ")} </dev/null 2>/dev/null >console & monitor=$!`,
    // It ends with the line. Looking at a file again and again takes more of the processors than one thinks.
    "grep -q 'capsule-guest: ready' console",
    "kill -9 $monitor 2>/dev/null; wait; rm -rf /tmp/bare",
  ].join("\n");
  return async () => await capsule.host.exec(["sh", "-c", script]);
}
