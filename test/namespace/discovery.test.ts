/** Two capsules and an operator on networks of their own: found, followed, and never believed without the pinned key. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { DecodedPacket } from "dns-packet";
import { repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import type { Found } from "../../packages/capsulectl/src/discovery/found.ts";
import { enterNetwork, Lan, NetworkNamespace } from "../support/lan.ts";
import { type Result, TestCapsule } from "../support/test-capsule.ts";

interface Event {
  readonly event: "appeared" | "changed" | "gone";
  readonly capsule: Found;
}

let dir: string;
let lan: Lan;
let second: Lan;
let client: NetworkNamespace;
/** Adopted, by the user of the tests' own configuration, from the start. */
let a: TestCapsule;
/** Nobody's at first. */
let b: TestCapsule;
/** Their host names. */
const names = { a: "", b: "" };
const watching: ChildProcess[] = [];

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-discovery-"));
  [lan, second, client] = await Promise.all([Lan.make(), Lan.make(), NetworkNamespace.make()]);
  await lan.join(client.pid, "lan0", "192.0.2.10/24");
  await second.join(client.pid, "lan1", "198.51.100.10/24");
  // Multicast DNS comes from the link itself, which its TTL shows (RFC 6762, section 11): some look at that.
  const strict = `table inet strict {
    chain input {
      type filter hook input priority 0
      udp sport 5353 ip ttl != 255 drop
      udp sport 5353 ip6 hoplimit != 255 drop
    }
  }`;
  await run([...client.enter, "nft", "-f", "-"], { input: strict });
  a = await TestCapsule.start("disco-a", []);
  b = await TestCapsule.startUnadopted("disco-b");
  [names.a = "", names.b = ""] = await Promise.all(
    [a, b].map(async ({ host }) => (await host.exec(["hostname"])).trim()),
  );
  await lan.join(a.local.initPid, "lan0", "192.0.2.1/24");
  await lan.join(b.local.initPid, "lan0", "192.0.2.2/24");
});
after(async () => {
  for (const child of watching) child.kill("SIGKILL");
  await Promise.all([a?.stop(), b?.stop()]);
  for (const network of [lan, second, client]) network?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** capsulectl on the operator's machine. */
function start(args: readonly string[]): ChildProcess {
  const [command = "", ...rest] = [...client.enter, join(repositoryRoot, "capsulectl"), ...args];
  return spawn(command, rest, {
    env: { PATH: process.env["PATH"] ?? "", HOME: dir, XDG_CONFIG_HOME: join(dir, "config") },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function ctl(...args: string[]): Promise<Result> {
  const child = start(args);
  const [stdout, stderr] = [child.stdout, child.stderr].map((stream) => {
    const chunks: Buffer[] = [];
    stream?.on("data", (chunk: Buffer) => chunks.push(chunk));
    return () => Buffer.concat(chunks).toString();
  });
  const code = await new Promise<number>((resolve) => child.once("close", (exit) => resolve(exit ?? -1)));
  return { code, stdout: stdout?.() ?? "", stderr: stderr?.() ?? "" };
}

async function discovered(): Promise<Found[]> {
  const { code, stdout, stderr } = await ctl("discover", "-o", "json");
  assert.equal(code, 0, stderr);
  return (JSON.parse(stdout) as { capsules: Found[] }).capsules;
}

/** What a watch shows at a time. */
interface Watch {
  shows(what: string, holds: (capsule: Found) => boolean): Promise<void>;
  gone(capsule: TestCapsule, timeoutMs: number): Promise<void>;
}

function watch(): Watch {
  const child = start(["discover", "--watch", "-o", "json"]);
  watching.push(child);
  const shown = new Map<string, Found>();
  const told: string[] = [];
  if (child.stdout !== null) {
    createInterface(child.stdout).on("line", (line) => {
      const { event, capsule } = JSON.parse(line) as Event;
      told.push(line);
      if (event === "gone") shown.delete(capsule.fingerprint);
      else shown.set(capsule.fingerprint, capsule);
    });
  }
  const until = async (what: string, holds: () => boolean, timeoutMs = 30_000): Promise<void> => {
    for (const deadline = Date.now() + timeoutMs; !holds(); await sleep(50))
      if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}. Told:\n${told.join("\n")}`);
  };
  return {
    shows: async (what, holds) => await until(what, () => [...shown.values()].some(holds)),
    gone: async ({ fingerprint }, timeoutMs) => await until("gone", () => !shown.has(fingerprint), timeoutMs),
  };
}

const isA = ({ fingerprint }: Found): boolean => fingerprint === a.fingerprint;
const isB = ({ fingerprint }: Found): boolean => fingerprint === b.fingerprint;

interface Identity {
  readonly capsuleId: string;
  readonly shortId: string;
}

async function identityOf(capsule: TestCapsule): Promise<Identity> {
  const log = await capsule.host.exec(["grep", "-o", '"capsuleId":"[a-z2-7]*"', "/perm/log/capsuled.log"]);
  const capsuleId = /"capsuleId":"([a-z2-7]{26})"/.exec(log)?.[1] ?? "";
  return { capsuleId, shortId: capsuleId.slice(0, 6) };
}

async function contextOf(name: string): Promise<{ host: string; capsuleId: string; fingerprint: string } | undefined> {
  const { contexts } = JSON.parse(readFileSync(join(dir, "config/capsule/config.yaml"), "utf8"));
  return contexts[name];
}

const inB = (...command: string[]) => run([...enterNetwork(b.local.initPid), "ip", ...command]);

test("both are found, with what they say themselves and the fingerprint of the key that they have", async () => {
  const [first, other] = [await identityOf(a), await identityOf(b)];
  let found = await discovered();
  // They have joined this network a moment ago, and see first whether their names are free.
  for (const deadline = Date.now() + 30_000; found.length < 2 && Date.now() < deadline; ) found = await discovered();
  assert.equal(found.length, 2, JSON.stringify(found));
  const [ofA, ofB] = [a, b].map((capsule) => found.find(({ fingerprint }) => fingerprint === capsule.fingerprint));
  const common = { version: ofA?.version, mode: "namespace", context: "", impersonates: "" };
  assert.partialDeepStrictEqual(ofA, { ...first, ...common, name: names.a, adopted: true });
  assert.partialDeepStrictEqual(ofB, { ...other, ...common, name: names.b, adopted: false });
  assert.equal(ofA?.addresses[0], "192.0.2.1:50000");
  // By IPv6 too, on the link where it is.
  assert.match(ofB?.addresses[1] ?? "", /^\[fe80::[0-9a-f:]+%lan0\]:50000$/);
  const table = (await ctl("discover")).stdout;
  assert.match(table, /^NAME +ID +ADDRESS +ADOPTED +VERSION +MODE +CONTEXT +FINGERPRINT\n/);
  assert.match(table, new RegExp(`${other.shortId} +192\\.0\\.2\\.2:50000 +no .*${b.fingerprint}`));
});

test("a second network is found, again when its plug was pulled, and is left when its link goes", async () => {
  const plug = await second.join(a.local.initPid, "lan1", "198.51.100.1/24");
  const seen = watch();
  await seen.shows("a there", (one) => isA(one) && one.addresses.includes("198.51.100.1:50000"));
  const announced = async () =>
    (await a.host.exec(["cat", "/perm/log/capsuled.log"])).match(/"link":"lan1".*"announced"/g)?.length ?? 0;
  const times = await announced();
  await plug(false);
  await sleep(3_000);
  await plug(true);
  for (const deadline = Date.now() + 10_000; (await announced()) === times; await sleep(200))
    if (Date.now() > deadline) assert.fail("not announced anew");
  await run([...enterNetwork(a.local.initPid), "ip", "link", "delete", "lan1"]);
  // Nobody can take it back there: others keep it until it has expired. Who asks now is not told of it.
  await sleep(3_000);
  const ofA = (await discovered()).find(({ fingerprint }) => fingerprint === a.fingerprint);
  assert.equal(ofA?.addresses[0], "192.0.2.1:50000");
  assert.ok(!ofA?.addresses.some((address) => address.startsWith("198.51.100")), JSON.stringify(ofA));
});

test("adopt by short id; those who watch are told that it is adopted", async () => {
  const { shortId } = await identityOf(b);
  const seen = watch();
  await seen.shows("b, of nobody", (one) => isB(one) && !one.adopted);
  const wrong = await ctl("adopt", shortId, "--name", "b", "--fingerprint", a.fingerprint);
  assert.equal(wrong.code, 4, wrong.stderr);
  const right = await ctl("adopt", shortId, "--name", "b", "--fingerprint", b.fingerprint);
  assert.equal(right.code, 0, right.stderr);
  await seen.shows("b, adopted", (one) => isB(one) && one.adopted && one.context === "b");
  assert.equal((await contextOf("b"))?.host, "192.0.2.2:50000");
  const unknown = await ctl("adopt", "zzzzzz");
  assert.equal(unknown.code, 3, unknown.stderr);
});

test("a context follows its capsule to another address, and to IPv6 alone", async () => {
  const seen = watch();
  await seen.shows("b", isB);
  await inB("address", "del", "192.0.2.2/24", "dev", "lan0");
  await inB("address", "add", "192.0.2.77/24", "dev", "lan0");
  await seen.shows("b elsewhere", (one) => isB(one) && one.addresses[0] === "192.0.2.77:50000");
  const moved = await ctl("--capsule", "b", "capsule", "info");
  assert.equal(moved.code, 0, moved.stderr);
  assert.match(moved.stdout, new RegExp(`\\(${(await identityOf(b)).shortId}\\)`));
  assert.match(moved.stderr, /"b" answers at 192\.0\.2\.77:50000 now \(it was at 192\.0\.2\.2:50000\)/);
  assert.equal((await contextOf("b"))?.host, "192.0.2.77:50000");
  assert.equal((await ctl("--capsule", "b", "capsule", "info")).stderr, "");

  await inB("address", "del", "192.0.2.77/24", "dev", "lan0");
  await seen.shows("b by IPv6 only", (one) => isB(one) && one.addresses[0]?.startsWith("[fe80") === true);
  const by6 = await ctl("--capsule", "b", "capsule", "info");
  assert.equal(by6.code, 0, by6.stderr);
  assert.match((await contextOf("b"))?.host ?? "", /^\[fe80::[0-9a-f:]+%lan0\]:50000$/);
  assert.equal((await ctl("--capsule", "b", "capsule", "info")).stderr, "");

  await inB("address", "add", "192.0.2.2/24", "dev", "lan0");
  await seen.shows("b again", (one) => isB(one) && one.addresses[0] === "192.0.2.2:50000");
});

test("another capsule at the address is not taken for it; one of the same id without the key is not followed", async () => {
  const path = join(dir, "config/capsule/config.yaml");
  const config = JSON.parse(readFileSync(path, "utf8"));
  const { capsuleId } = await identityOf(a);
  const wrongAddress = { ...config.contexts.b, host: "192.0.2.1:50000" };
  // As if a had been adopted with a key that b has, which is as good as one that nobody has.
  const wrongKey = { host: "192.0.2.99:50000", capsuleId, fingerprint: b.fingerprint };
  writeFileSync(path, JSON.stringify({ ...config, contexts: { b: wrongAddress, a: wrongKey } }));

  const right = await ctl("--capsule", "b", "capsule", "info");
  assert.equal(right.code, 0, right.stderr);
  assert.equal((await contextOf("b"))?.host, "192.0.2.2:50000");

  const refused = await ctl("--capsule", "a", "capsule", "info");
  assert.equal(refused.code, 1, refused.stderr);
  assert.deepEqual(await contextOf("a"), wrongKey);
  const { stdout, stderr } = await ctl("discover", "-o", "json");
  const found = (JSON.parse(stdout) as { capsules: Found[] }).capsules;
  assert.partialDeepStrictEqual(
    found.find(({ fingerprint }) => fingerprint === a.fingerprint),
    { context: "", impersonates: "a" },
  );
  assert.match(stderr, /your context "a", and has another key/);
  writeFileSync(path, JSON.stringify({ ...config, contexts: { b: config.contexts.b } }));
});

test("a new host name is told; one that another capsule has gets a number on the network", async () => {
  const seen = watch();
  await seen.shows("b", isB);
  assert.equal((await ctl("--capsule", "b", "capsule", "hostname", names.a)).code, 0);
  await seen.shows("b by another name", (one) => isB(one) && one.name === names.a);
  const log = async () => await b.host.exec(["grep", "announced", "/perm/log/capsuled.log"]);
  for (const deadline = Date.now() + 20_000; !(await log()).includes(`"host":"${names.a}-2.local"`); await sleep(200))
    if (Date.now() > deadline) assert.fail(await log());
  const found = await discovered();
  assert.deepEqual(found.map(({ addresses }) => addresses[0]).sort(), ["192.0.2.1:50000", "192.0.2.2:50000"]);
});

/** Runs a script of Node on the operator's machine, with dns-packet as `packet`. */
async function script(text: string): Promise<string> {
  const path = join(dir, "script.cjs");
  writeFileSync(
    path,
    `const packet = require(${JSON.stringify(join(repositoryRoot, "node_modules/dns-packet"))});\n${text}`,
  );
  return await run([...client.enter, process.execPath, path]);
}

test("who asks by ordinary DNS is answered alone, with the question and for a moment", async () => {
  const text = await script(`
    const socket = require("dgram").createSocket("udp4");
    const answers = [];
    socket.on("message", (bytes) => answers.push(packet.decode(bytes)));
    socket.bind(0, () => {
      socket.setMulticastInterface("192.0.2.10");
      const questions = [{ type: "PTR", name: "_capsule._tcp.local" }];
      socket.send(packet.encode({ type: "query", id: 4711, questions }), 5353, "224.0.0.251");
    });
    setTimeout(() => { console.log(JSON.stringify(answers)); process.exit(); }, 1500);`);
  const answers = JSON.parse(text) as DecodedPacket[];
  assert.equal(answers.length, 2, text);
  for (const { id, questions, answers: said } of answers) {
    assert.equal(id, 4711);
    assert.equal(questions?.[0]?.name, "_capsule._tcp.local");
    assert.ok(
      said?.every((one) => "ttl" in one && (one.ttl ?? 99) <= 10),
      JSON.stringify(said),
    );
  }
});

test("other operations and classes get no answer, and a response from another port takes no name", async () => {
  const text = await script(`
    const socket = require("dgram").createSocket("udp4");
    const answers = [];
    socket.on("message", (bytes) => answers.push(packet.decode(bytes)));
    const send = (bytes) => socket.send(bytes, 5353, "192.0.2.1");
    const ask = (id, bits, klass) => {
      const bytes = Buffer.from(packet.encode({ type: "query", id, questions: [{ type: "A", name: "${names.a}.local" }] }));
      bytes.writeUInt16BE(bits, 2);
      bytes.writeUInt16BE(klass, bytes.length - 2);
      send(bytes);
    };
    socket.bind(0, () => {
      ask(1, 0x2800, 1);
      ask(2, 0x0003, 1);
      ask(3, 0, 3);
      const taken = { type: "A", name: "${names.a}.local", data: "192.0.2.66", ttl: 120 };
      // Of two one would be heard by a capsule that asks already whether the name is its own.
      for (let i = 0; i < 2; i++) send(packet.encode({ type: "response", answers: [taken] }));
      setTimeout(() => ask(4, 0, 1), 1500);
    });
    setTimeout(() => { console.log(JSON.stringify(answers)); process.exit(); }, 2500);`);
  const answers = JSON.parse(text) as DecodedPacket[];
  assert.deepEqual(
    answers.map(({ id, answers: [first] = [] }) => [id, first?.type === "A" && first.data]),
    [[4, "192.0.2.1"]],
  );
});

test("who says in several packets what it knows is told the rest only, as avahi asks on a large network", async () => {
  // They ask from the same address and port: what they know counts for this one too.
  for (const child of watching.splice(0)) child.kill("SIGKILL");
  const text = await script(`
    const socket = require("dgram").createSocket({ type: "udp4", reuseAddr: true });
    const questions = [{ type: "PTR", name: "_capsule._tcp.local" }];
    const pointers = [];
    socket.on("message", (bytes, { address }) => {
      const { type, answers } = packet.decode(bytes);
      if (type === "response" && address.startsWith("192.0.2.")) pointers.push(...answers.filter(({ type, name }) => type === "PTR" && name === questions[0].name));
    });
    const send = (one) => socket.send(packet.encode({ type: "query", ...one }), 5353, "224.0.0.251");
    const ask = async (known) => {
      pointers.length = 0;
      send({ questions, flags: packet.TRUNCATED_RESPONSE });
      setTimeout(() => send({ answers: known.slice(0, 1), flags: packet.TRUNCATED_RESPONSE }), 50);
      setTimeout(() => send({ answers: known.slice(1) }), 100);
      await new Promise((resolve) => setTimeout(resolve, 1500));
      return [...new Set(pointers.map(({ data }) => data))];
    };
    socket.bind(5353, async () => {
      socket.setMulticastInterface("192.0.2.10");
      socket.addMembership("224.0.0.251", "192.0.2.10");
      const all = await ask([]);
      const known = all.map((data) => ({ ...questions[0], data, ttl: 60 }));
      console.log(JSON.stringify([all, await ask(known.slice(0, 1)), await ask(known)]));
      process.exit();
    });`);
  const [all = [], rest, none] = JSON.parse(text) as string[][];
  assert.equal(all.length, 2, text);
  assert.deepEqual([rest, none], [all.slice(1), []]);
});

test("whatever is sent to it does no harm, and it is found afterwards", async () => {
  const pid = await a.capsuledPid();
  await script(`
    const { randomBytes, randomInt } = require("crypto");
    const socket = require("dgram").createSocket({ type: "udp4", reuseAddr: true });
    const record = { type: "SRV", name: "x._capsule._tcp.local", data: { port: 1, target: "x.local" } };
    const questions = [{ type: "ANY", name: "_capsule._tcp.local" }, { type: "A", name: "${names.a}.local" }];
    const good = [{ type: "query", questions, answers: [record], authorities: [record] }, { type: "response", answers: [record], additionals: [record] }];
    socket.bind(5353, async () => {
      socket.setMulticastInterface("192.0.2.10");
      for (let i = 0; i < 3000; i++) {
        const bytes = i % 3 === 0 ? randomBytes(randomInt(1, 1400)) : Buffer.from(packet.encode(good[i % 2]));
        for (let n = randomInt(4); n > 0 && i % 3 !== 0; n--) bytes[randomInt(bytes.length)] = randomInt(256);
        socket.send(i % 7 === 0 ? bytes.subarray(0, randomInt(bytes.length)) : bytes, 5353, "224.0.0.251");
        if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
      }
      socket.close();
    });`);
  assert.equal(await a.capsuledPid(), pid);
  assert.equal((await discovered()).filter(isA).length, 1);
});

test("where announcing is not possible everything else is, and it is tried again", async () => {
  await b.host.exec(["capsule-init", "ctl", "stop", "capsuled"]);
  const taken = 'require("dgram").createSocket("udp4").bind(5353); setTimeout(process.exit, 60000)';
  await b.host.exec(["sh", "-c", `node -e '${taken}' >/dev/null 2>&1 & echo $! >/run/taken; sleep 1`]);
  await b.host.exec(["capsule-init", "ctl", "start", "capsuled"]);
  await b.untilServing();
  assert.equal((await ctl("--capsule", "b", "capsule", "info")).code, 0);
  assert.match(await b.host.exec(["grep", "announcing failed", "/perm/log/capsuled.log"]), /EADDRINUSE/);
  assert.equal((await discovered()).filter(isB).length, 0);
  const seen = watch();
  await b.host.exec(["sh", "-c", "kill $(cat /run/taken)"]);
  await seen.shows("b", isB);
});

test("one that is shut down is gone at once; one that is cut off (only with ALL=1), when what it said has expired", async () => {
  const seen = watch();
  await seen.shows("a", isA);
  await seen.shows("b", isB);
  await a.host.cutPower();
  const cutAt = Date.now();
  await b.host.exec(["capsule-init", "ctl", "stop", "capsuled"]);
  await seen.gone(b, 8_000);
  // Two minutes of waiting; that what has expired is forgotten is in the cache's own test too.
  if (process.env["ALL"] === undefined) return;
  await seen.gone(a, 140_000);
  assert.ok(Date.now() - cutAt > 30_000, "a was taken back, while nobody was there to do it");
});

test("nobody there is no error; no network is one", async () => {
  const lonely = await NetworkNamespace.make();
  const run1 = spawn(
    lonely.enter[0] ?? "",
    [...lonely.enter.slice(1), join(repositoryRoot, "capsulectl"), "discover"],
    {
      env: { PATH: process.env["PATH"] ?? "", HOME: dir, XDG_CONFIG_HOME: join(dir, "config") },
      stdio: "ignore",
    },
  );
  const code = await new Promise((resolve) => run1.once("close", resolve));
  lonely.close();
  assert.equal(code, 1);
  const none = await ctl("discover", "--timeout", "1s");
  assert.equal(none.code, 0, none.stderr);
  assert.match(none.stderr, /No capsule was heard/);
  assert.equal((await ctl("discover", "--timeout", "soon")).code, 2);
});
