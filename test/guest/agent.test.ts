/** capsule-guest in a real (emulated) microVM, driven over its vsock: `CAPSULE_GUEST_LOG=1` shows how long its steps took. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { GuestState } from "@capsule/api/gen/capsule/v1/guest_pb.js";
import { FileType } from "@capsule/api/gen/capsule/v1/session_pb.js";
import { Code, ConnectError } from "@connectrpc/connect";
import { run } from "../../image/run.ts";
import type { Agent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";
import { configOf } from "./config.ts";
import { Exec, exec } from "./exec.ts";
import { LogReader, nanos } from "./logs.ts";
import { GuestMachine, makeDisk, makeRootTree } from "./machine.ts";

const MiB = 1024 ** 2;
const maxAgentBytes = 8 * MiB;
/** Says something, and ends with 7 when it is asked to. */
const payload = ["sh", "-c", "echo hello; echo oops >&2; trap 'exit 7' TERM; while true; do sleep 1000 & wait; done"];

let dir: string;
let machine: GuestMachine;
let guest: Agent;
let known = 0n;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "capsule-guest-"));
  await makeRootTree(join(dir, "tree"));
  await makeDisk(join(dir, "base.raw"), 64, join(dir, "tree"));
  await boot("first");
});

after(async () => {
  guest?.close();
  await machine?.kill();
  if (dir !== undefined) await rm(dir, { recursive: true, force: true });
});

/** Boots a new machine in the place of the last one. */
async function boot(name: string): Promise<void> {
  guest?.close();
  await machine?.kill();
  const disks = [join(dir, "root.raw"), join(dir, "volume.raw")];
  await run(["cp", "--sparse=always", join(dir, "base.raw"), join(dir, "root.raw")]);
  await makeDisk(join(dir, "volume.raw"), 64);
  machine = await GuestMachine.start({ dir: join(dir, name), disks });
  guest = await machine.dial();
  if (process.env["CAPSULE_GUEST_LOG"] === "1")
    console.log(`the agent answered after ${Math.round(performance.now() - machine.startedAt)} ms`);
}

function start(args: readonly string[], change: object = {}): Promise<unknown> {
  return guest.client.startPayload({
    now: timestamp(Date.now()),
    hostname: "guest-under-test",
    network: { ipv4: "10.0.2.15/24", gateway4: "10.0.2.2", ipv6: "fd00::5/64", gateway6: "fd00::1", mtu: 1400 },
    disks: [{}, { subPaths: ["sub/dir"] }],
    files: [Buffer.from("content of file 0\n")],
    sysctls: { "net.ipv4.ip_forward": "1" },
    ociConfig: configOf(args, 64 * MiB, true),
    ...change,
  });
}

function timestamp(ms: number): { seconds: bigint; nanos: number } {
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1e6 };
}

async function state(
  until: GuestState,
): Promise<{ exitCode: number; outOfMemory: boolean; finishedAt?: Timestamp | undefined }> {
  for await (const now of guest.client.watchState({})) if (now.state === until) return now;
  throw new Error("the agent no longer tells its state");
}

function failsWith(code: Code, pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof ConnectError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.rawMessage, pattern);
    return true;
  };
}

async function e2fsck(path: string): Promise<void> {
  await run(["e2fsck", "-fn", path]);
  const features = await run(["dumpe2fs", "-h", path]);
  assert.match(features, /^Filesystem state: +clean$/m);
  assert.doesNotMatch(features, /needs_recovery/);
}

test("a guest without a payload is idle, and starts one once", async () => {
  for await (const now of guest.client.watchState({})) {
    assert.equal(now.state, GuestState.IDLE);
    assert.match(now.version, /^[0-9]+\./);
    break;
  }
  await assert.rejects(exec(guest, ["true"]), failsWith(Code.FailedPrecondition, /not running/));
  const running = state(GuestState.RUNNING);
  await start(payload, { logAfter: timestamp(Date.now() + 3_600_000) });
  await running;
  await assert.rejects(start(payload), failsWith(Code.FailedPrecondition, /before/));
});

test("network, host name, files, volumes and kernel parameters are set", async () => {
  const said = await exec(guest, [
    "sh",
    "-c",
    "ip addr; ip route; ip -6 route; cat /proc/sys/kernel/hostname /srv/file /proc/sys/net/ipv4/ip_forward; grep /data /proc/mounts",
  ]);
  for (const pattern of [
    /inet 127\.0\.0\.1\/8/,
    /eth0: .* mtu 1400/,
    /inet 10\.0\.2\.15\/24/,
    /inet6 fd00::5\/64 scope global flags 02/,
    /default via 10\.0\.2\.2 dev eth0/,
    /default via fd00::1 dev eth0/,
    /guest-under-test\ncontent of file 0\n1\n/,
    /\/dev\/vdb \/data ext4 rw/,
  ])
    assert.match(said.stdout, pattern);
  assert.doesNotMatch(said.stdout, /via fe80/);
});

test("both streams of the payload are in its log, each line later than the one before", async () => {
  const log = new LogReader(guest, 0n);
  await log.has(/ stdout F hello$/m);
  await log.has(/ stderr F oops$/m);
  // `logAfter` was an hour ahead.
  for (const line of log.lines) assert(Date.parse(line.slice(0, 30)) > Date.now() + 3_000_000, line);
  log.acknowledge();
  known = log.last;
  await log.close();
});

test("a log goes on where another stream stopped: nothing is missing, nothing comes twice", async () => {
  const script = "for i in $(seq 0 39); do seq $((i * 600 + 1)) $((i * 600 + 600)) >/proc/1/fd/1; done";
  const writer = new Exec(guest, ["sh", "-c", script]);
  const numbers: number[] = [];
  let round = 0;
  for (; numbers.at(-1) !== 24_000; round++) {
    assert(round < 1000 && (writer.exitCode ?? 0) === 0, `stopped at ${numbers.at(-1)}: ${writer.stderr}`);
    // The stream is dropped in the middle; every second time without a word about what has come.
    const log = new LogReader(guest, known, 1 + 300 * (round % 2));
    await log.moreThan(0);
    if (round % 2 === 1) log.acknowledge();
    await log.close();
    numbers.push(...log.lines.map((line) => Number(line.slice(40))));
    for (const time of log.times) {
      assert(time > known, `${time} after ${known}`);
      known = time;
    }
  }
  assert(round >= 4, `${round} streams`);
  assert.deepEqual(
    numbers,
    Array.from({ length: 24_000 }, (_, i) => i + 1),
  );
  assert.equal(await writer.done, 0);
});

test("the newest stream ends the one before", async () => {
  const first = new LogReader(guest, known);
  await sleep(300);
  const second = new LogReader(guest, known);
  await first.ended;
  assert.equal(first.isEnd, false);
  await exec(guest, ["sh", "-c", "echo for the second >/proc/1/fd/1"]);
  await second.has(/for the second/);
  assert.equal(first.lines.length, 0);
  second.acknowledge();
  known = second.last;
  await second.close();
});

test("output that nobody takes makes the payload wait, and none of it is lost", async () => {
  const writer = new Exec(guest, ["sh", "-c", "seq 1 60000 >/proc/1/fd/1"]);
  const log = new LogReader(guest, known);
  await sleep(6_000);
  assert.equal(writer.exitCode, undefined, "it must wait");
  const held = log.bytes;
  assert(held > 900_000 && held < 1_200_000, `${held} bytes were held`);
  const acknowledging = log.acknowledgeAll();
  assert.equal(await writer.done, 0);
  await log.has(/ stdout F 60000$/m, 60_000);
  await log.close();
  await acknowledging;
  assert.deepEqual(
    log.lines.map((line) => Number(line.slice(40))),
    Array.from({ length: 60_000 }, (_, i) => i + 1),
  );
  known = log.last;
});

test("long lines are cut as CRI does", async () => {
  const log = new LogReader(guest, known);
  await exec(guest, ["sh", "-c", "head -c 20000 /dev/zero >/proc/1/fd/1; echo >/proc/1/fd/1"]);
  await log.moreThan(1);
  assert.deepEqual(
    log.lines.map((line) => [line.slice(31, 39), line.length - 40]),
    [
      ["stdout P", 16_384],
      ["stdout F", 3_616],
    ],
  );
  log.acknowledge();
  known = log.last;
  await log.close();
});

test("commands have an exit code, both streams apart, and no more than they wrote", async () => {
  const said = await exec(guest, ["sh", "-c", "echo out; echo err >&2; exit 3"]);
  assert.deepEqual([said.exitCode, said.stdout, said.stderr], [3, "out\n", "err\n"]);
  // More than any buffer on the way, to its last byte.
  const much = await exec(guest, ["sh", "-c", "head -c 3000000 /dev/zero; sleep 1000 &"]);
  assert.deepEqual([much.exitCode, much.received], [0, 3_000_000]);
});

test("a command that is not there is said in words", async () => {
  await assert.rejects(exec(guest, ["no-such-command"]), failsWith(Code.FailedPrecondition, /no-such-command/));
  await assert.rejects(
    exec(guest, ["no-such-command"], { tty: [80, 25] }),
    failsWith(Code.FailedPrecondition, /no-such-command/),
  );
});

test("users are looked up in the payload's files", async () => {
  assert.match((await exec(guest, ["id"], { user: "web" })).stdout, /uid=33\(web\) gid=34\(www\) groups=40\(logs\)/);
  assert.match((await exec(guest, ["id"], { user: "7:8" })).stdout, /uid=7 gid=8/);
  assert.match((await exec(guest, ["env"], { user: "web" })).stdout, /^HOME=\/srv$/m);
  await assert.rejects(exec(guest, ["id"], { user: "nobody9" }), failsWith(Code.FailedPrecondition, /nobody9/));
});

test("standard input comes through, with its end", async () => {
  const cat = new Exec(guest, ["wc", "-c"], { stdin: true });
  const data = randomBytes(100_000);
  for (let i = 0; i < 20; i++) cat.write(data);
  cat.send({ case: "stdinClosed", value: true });
  assert.equal(await cat.done, 0);
  assert.equal(cat.stdout.trim(), "2000000");
  // Without it the input is empty.
  assert.equal((await exec(guest, ["wc", "-c"])).stdout.trim(), "0");
});

test("signals reach a command, and its end tells them", async () => {
  const sleeper = new Exec(guest, ["sh", "-c", "echo ready; exec sleep 1000"]);
  await sleeper.says(/ready/);
  sleeper.send({ case: "signal", value: 15 });
  assert.equal(await sleeper.done, 143);
  const realtime = new Exec(guest, ["sh", "-c", "echo ready; exec sleep 1000"]);
  await realtime.says(/ready/);
  realtime.send({ case: "signal", value: 40 });
  assert.equal(await realtime.done, 168);
});

test("a terminal has a size, which changes, and keys that end things", async () => {
  const shell = new Exec(guest, ["sh"], { stdin: true, tty: [100, 30] });
  shell.write("stty size\n");
  await shell.says(/30 100\r\n/);
  shell.send({ case: "resize", value: { $typeName: "capsule.v1.TerminalSize", columns: 132, rows: 50 } });
  shell.write("stty size\n");
  await shell.says(/50 132\r\n/);
  shell.write("sleep 1000\n");
  await sleep(500);
  shell.write("\u0003");
  shell.write("exit 9\n");
  assert.equal(await shell.done, 9);
});

test("a command ends with its caller", async () => {
  const left = new Exec(guest, ["sh", "-c", "echo $$ is here; exec sleep 4321"]);
  await left.says(/is here/);
  left.abort.abort();
  await assert.rejects(left.done);
  // A pattern that does not match the one who looks.
  const find = ["sh", "-c", "grep -l 'sleep.432[1]' /proc/[0-9]*/cmdline | wc -l"];
  for (let i = 0; ; i++) {
    if ((await exec(guest, find)).stdout.trim() === "0") break;
    assert(i < 10, "it still runs");
    await sleep(500);
  }
});

test("copies go in and out unchanged", async () => {
  const source = join(dir, "source");
  await mkdir(source, { recursive: true });
  const content = randomBytes(6 * MiB + 17);
  await writeFile(join(source, "big"), content);
  await run(["tar", "-C", source, "-cf", join(dir, "in.tar"), "big"]);
  const archive = await readFile(join(dir, "in.tar"));
  async function* requests() {
    yield { input: { case: "start" as const, value: { path: "/data", rename: "renamed" } } };
    for (let i = 0; i < archive.length; i += 65_536)
      yield { input: { case: "data" as const, value: archive.subarray(i, i + 65_536) } };
  }
  const { bytes, entries } = await guest.client.copyIntoPayload(requests());
  assert.deepEqual([bytes, entries], [BigInt(archive.length), 1n]);
  const chunks: Uint8Array[] = [];
  for await (const { data } of guest.client.copyOutOfPayload({ path: "/data/renamed" })) chunks.push(data);
  await writeFile(join(dir, "out.tar"), Buffer.concat(chunks));
  await mkdir(join(dir, "out"));
  await run(["tar", "-C", join(dir, "out"), "-xf", join(dir, "out.tar")]);
  assert(content.equals(await readFile(join(dir, "out/renamed"))));
  const found = await guest.client.statPayloadPath({ path: "/data/renamed" });
  assert.deepEqual([found.type, found.size], [FileType.REGULAR, BigInt(content.length)]);
  const link = await guest.client.statPayloadPath({ path: "/bin/sh" });
  assert.deepEqual([link.type, link.linkTarget], [FileType.SYMLINK, "busybox"]);
});

test("copies that cannot be say why", async () => {
  await assert.rejects(guest.client.statPayloadPath({ path: "/nowhere" }), failsWith(Code.NotFound, /nowhere/));
  await assert.rejects(
    async () => {
      for await (const _ of guest.client.copyOutOfPayload({ path: "/nowhere" }));
    },
    failsWith(Code.NotFound, /nowhere/),
  );
  const into = (path: string, data: Uint8Array) =>
    guest.client.copyIntoPayload(
      (async function* () {
        yield { input: { case: "start" as const, value: { path, rename: "" } } };
        yield { input: { case: "data" as const, value: data } };
      })(),
    );
  await assert.rejects(into("/nowhere", new Uint8Array(1024)), failsWith(Code.NotFound, /nowhere/));
  await assert.rejects(into("/data", Buffer.from("no archive".repeat(200))), failsWith(Code.InvalidArgument, /./));
  await writeFile(join(dir, "huge"), randomBytes(70 * MiB));
  await run(["tar", "-C", dir, "-cf", join(dir, "huge.tar"), "huge"]);
  const huge = await readFile(join(dir, "huge.tar"));
  await assert.rejects(
    guest.client.copyIntoPayload(
      (async function* () {
        yield { input: { case: "start" as const, value: { path: "/data", rename: "" } } };
        for (let i = 0; i < huge.length; i += 262_144)
          yield { input: { case: "data" as const, value: huge.subarray(i, i + 262_144) } };
      })(),
    ),
    failsWith(Code.ResourceExhausted, /[Nn]o space/),
  );
});

test("it tells what the payload uses, and uses little itself", async () => {
  const stats = await guest.client.payloadStats({});
  assert(stats.cpuNanos > 0n && stats.memoryBytes > 0n && stats.pids > 0);
  assert(stats.guestMemoryBytes > stats.guestAvailableBytes && stats.guestAvailableBytes > 0n);
  if (process.env["CAPSULE_GUEST_LOG"] === "1") console.log(`the agent has ${stats.agentResidentBytes} bytes resident`);
  assert(stats.agentResidentBytes < BigInt(maxAgentBytes), `${stats.agentResidentBytes}`);
});

test("a volume is frozen as long as the caller stays", async () => {
  const holding = new AbortController();
  const frozen = guest.client.freezeVolume({ volume: 0 }, { signal: holding.signal })[Symbol.asyncIterator]();
  await frozen.next();
  const writer = new Exec(guest, ["sh", "-c", "echo more >/data/after && sync && echo written"]);
  await sleep(2_000);
  assert.equal(writer.stdout, "");
  holding.abort();
  await writer.says(/written/);
  assert.equal(await writer.done, 0);
  await assert.rejects(
    async () => {
      for await (const _ of guest.client.freezeVolume({ volume: 5 }));
    },
    failsWith(Code.FailedPrecondition, /volume 5/),
  );
  // The caller may be gone with his connection too.
  await guest.client.freezeVolume({ volume: 0 })[Symbol.asyncIterator]().next();
  guest.close();
  guest = await machine.dial();
  assert.equal((await exec(guest, ["sh", "-c", "echo again >/data/again && sync"])).exitCode, 0);
});

test("callers that go away at any moment do not keep the next one from the agent", async () => {
  guest.close();
  await assert.rejects(guest.client.payloadStats({}), failsWith(Code.Unavailable, /is over/));
  const greeting = (): string => `CONNECT ${randomBytes(16).toString("hex")}\n`;
  const connected = async (): Promise<Socket> => {
    for (;;) {
      const socket = connect(machine.agentPath);
      const isConnected = await once(socket, "connect").catch(() => false);
      socket.on("error", () => undefined);
      if (isConnected !== false) return socket;
      // One that QEMU has not yet taken is waiting.
      await sleep(10);
    }
  };
  const call = async (words: string): Promise<void> => {
    const socket = await connected();
    if (words !== "") socket.write(words);
    socket.destroy();
  };
  await call("");
  for (let i = 0; i < 20; i++) await call(greeting());
  (await machine.dial()).close();
  await sleep(500);
  machine.signal("SIGSTOP");
  await call(greeting());
  await sleep(100);
  machine.signal("SIGCONT");
  guest = await machine.dial();
  // In the middle of what both have to say: the next one reads past it.
  const talker = new Exec(guest, ["sh", "-c", "cat & yes"]);
  await talker.says(/y/);
  talker.write(Buffer.alloc(MiB));
  guest.close();
  guest = await machine.dial();
  assert.equal((await exec(guest, ["true"])).exitCode, 0);
  const before = machine.ticks();
  await sleep(1_000);
  const used = machine.ticks() - before;
  assert(used < 30, `idle, it used ${used} of 100 ticks`);
});

test("the clock is set", async () => {
  await guest.client.setTime({ now: timestamp(Date.UTC(2030, 0, 1)) });
  assert.match((await exec(guest, ["date", "-u", "+%Y"])).stdout, /^2030/);
  await guest.client.setTime({ now: timestamp(Date.now()) });
});

test("a machine is saved while it works, and goes on from there with the disks of that moment", async () => {
  const { agentPath } = machine;
  const counting = "i=0; while :; do i=$((i + 1)); echo $i >/data/new; mv /data/new /data/count; sleep 0.1; done";
  const counter = new Exec(guest, ["sh", "-c", `${counting} & sleep 1; echo counts; wait`]);
  await counter.says(/counts/);
  const kept = ["root.raw", "volume.raw"];
  const state = join(dir, "state");
  await machine.save(state, async () => {
    for (const name of kept) await run(["cp", "--sparse=always", join(dir, name), join(dir, `kept-${name}`)]);
  });
  // The one that was saved goes on, with the same connection.
  const count = async (agent: Agent): Promise<number> =>
    Number((await exec(agent, ["cat", "/data/count"])).stdout.trim());
  const saved = await count(guest);
  for (let i = 0; i < 100 && (await count(guest)) < saved + 5; i++) await sleep(100);
  assert.ok((await count(guest)) >= saved + 5);
  const copy = await GuestMachine.start({
    dir: join(dir, "copy"),
    disks: kept.map((name) => join(dir, `kept-${name}`)),
    from: state,
  });
  try {
    assert.notEqual(copy.agentPath, agentPath);
    const there = await copy.dial();
    const first = await count(there);
    assert.ok(first > 0 && first < (await count(guest)), `${first}`);
    for (let i = 0; i < 100 && (await count(there)) <= first; i++) await sleep(100);
    assert.ok((await count(there)) > first, "it counts on");
    assert.deepEqual((await there.client.powerOff({})).faults, []);
    assert(await copy.untilOff(20_000));
    for (const name of kept) await e2fsck(join(dir, `kept-${name}`));
  } finally {
    await copy.kill();
  }
});

test("the payload's end is told with its code, and its log ends after it", async () => {
  const log = new LogReader(guest, known);
  const exited = state(GuestState.EXITED);
  await guest.client.signalPayload({ signal: 15 });
  const { exitCode, outOfMemory, finishedAt } = await exited;
  assert.deepEqual([exitCode, outOfMemory], [7, false]);
  assert(finishedAt !== undefined && nanos(finishedAt) > 0n);
  await log.ended;
  assert.equal(log.isEnd, true);
});

test("after power-off the disks are clean, and what was written is there", async () => {
  // Frozen by somebody who does not come back.
  await guest.client.freezeVolume({ volume: 0 })[Symbol.asyncIterator]().next();
  assert.deepEqual((await guest.client.powerOff({})).faults, []);
  assert(await machine.untilOff(10_000));
  for (const name of ["root.raw", "volume.raw"]) await e2fsck(join(dir, name));
  assert.equal(await run(["debugfs", "-R", "cat /sub/dir/after", join(dir, "volume.raw")]), "more\n");
});

test("a payload that cannot start says why, and the guest can be powered off", async () => {
  await boot("second");
  await assert.rejects(start(["no-such-program"]), failsWith(Code.FailedPrecondition, /no-such-program/));
  assert.match(machine.console(), /capsule-guest: the payload was not started: .*no-such-program/);
  assert.deepEqual((await guest.client.powerOff({})).faults, []);
  assert(await machine.untilOff(10_000));
  for (const name of ["root.raw", "volume.raw"]) await e2fsck(join(dir, name));
});

test("a payload that takes too much memory is told as such; power-off ends a busy one", async () => {
  await boot("third");
  const exited = state(GuestState.EXITED);
  await start(["tail", "/dev/zero"], { ociConfig: configOf(["tail", "/dev/zero"], 32 * MiB, true) });
  const { exitCode, outOfMemory } = await exited;
  assert.deepEqual([exitCode, outOfMemory], [137, true]);
  assert.deepEqual((await guest.client.powerOff({})).faults, []);
  assert(await machine.untilOff(10_000));
});

test("power-off ends a payload that writes without end", async () => {
  await boot("fourth");
  await start(["sh", "-c", "while true; do echo x >>/data/x; echo y; done"], { user: "0:0" });
  await sleep(2_000);
  assert.deepEqual((await guest.client.powerOff({})).faults, []);
  assert(await machine.untilOff(10_000));
  for (const name of ["root.raw", "volume.raw"]) await e2fsck(join(dir, name));
});
