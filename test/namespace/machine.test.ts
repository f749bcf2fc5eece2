/**
 * The machine's document on a real capsule: links on a network of the test, whose operator is cut off and let in again; names,
 * DNS, registries. What only a machine has is in test/qemu/machine.test.ts.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import { startDhcp } from "../support/dhcp.ts";
import { Lan, NetworkNamespace } from "../support/lan.ts";
import { type Result, TestCapsule } from "../support/test-capsule.ts";

/** Of `machine get -o json`, what is looked at. */
interface MachineJson {
  readonly spec: { readonly hostname: string; readonly links: readonly { readonly addresses: readonly string[] }[] };
  readonly generation: string;
  readonly pending?: { readonly inForce: boolean };
  readonly reverted?: { readonly reason: string };
  readonly faults: readonly string[];
}

let lan: Lan;
/** Where the operator is not. */
let far: Lan;
/** The operator's machine: on the network `lan` alone, and with the configuration of the test's own user. */
let client: NetworkNamespace;
let capsule: TestCapsule;

before(async () => {
  [lan, far, client] = await Promise.all([Lan.make(), Lan.make(), NetworkNamespace.make()]);
  await lan.join(client.pid, "lan0", "192.0.2.10/24");
  await run([...client.enter, ..."ip address add 2001:db8::10/64 dev lan0 nodad".split(" ")]);
  capsule = await TestCapsule.start("machine", []);
  await lan.join(capsule.local.initPid, "lan0");
  // So it is again when no document names it: a link that is up is reached by its link-local address.
  await inside("ip link set lan0 down");
  await far.join(capsule.local.initPid, "far0");
});
after(async () => {
  await capsule?.stop();
  client?.close();
  lan?.close();
  far?.close();
});

async function machine(): Promise<MachineJson> {
  return JSON.parse(await capsule.ctl(["machine", "get", "-o", "json"])) as MachineJson;
}

async function applied(manifest: string, ...options: string[]): Promise<string> {
  const { code, stdout, stderr } = await capsule.apply(manifest, ...options);
  assert.equal(code, 0, stderr);
  return stdout;
}

async function inside(command: string): Promise<string> {
  return await capsule.host.exec(["sh", "-c", command]);
}

/** Runs a program on the operator's machine, whatever comes of it. */
async function onClient(command: readonly string[], input = ""): Promise<Result> {
  const [program = "", ...args] = [...client.enter, ...command];
  return await new Promise((resolve) => {
    const env = { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome };
    const child = execFile(program, args, { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
    child.stdin?.end(input);
  });
}

/** capsulectl there, by the context `lan`. */
async function fromLan(args: readonly string[], input = ""): Promise<Result> {
  return await onClient([join(repositoryRoot, "capsulectl"), "--capsule", "lan", ...args], input);
}

/** Whether the API takes a connection from there, within two seconds. */
async function isReached(address: string): Promise<boolean> {
  const script = `const s = require("net").connect(50000, ${JSON.stringify(address)});
    s.once("connect", () => process.exit(0)).once("error", () => process.exit(1));
    setTimeout(() => process.exit(1), 2_000);`;
  return (await onClient([process.execPath, "-e", script])).code === 0;
}

const contextsPath = (): string => join(capsule.configHome, "capsule/config.yaml");

function contexts(): Record<string, { host: string }> {
  return (JSON.parse(readFileSync(contextsPath(), "utf8")) as { contexts: Record<string, { host: string }> }).contexts;
}

async function until(what: string, holds: () => Promise<boolean>, timeoutMs = 30_000): Promise<void> {
  for (const deadline = Date.now() + timeoutMs; !(await holds()); await sleep(100))
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}\n${await capsule.log()}`);
}

const onLan = (address: string, more = ""): string => `kind: Machine
name: nuc-1
links:
  - name: lan0
    addresses: [${address}, "2001:db8::1/64"]
${more}`;

test("a capsule without a document: all defaults, and such a document changes nothing", async () => {
  const { spec, generation, pending } = await machine();
  assert.deepEqual([spec.hostname, spec.links, generation, pending], ["", [], "0", undefined]);
  assert.match(await applied("kind: Machine\n"), /^machine\/\S+ unchanged$/m);
});

test("a static link is answered on by IPv4 and IPv6, and capsulectl has confirmed it", async () => {
  const text = onLan("192.0.2.1/24", "    mtu: 1400\n");
  const { code, stdout } = await capsule.try(["diff", "-f", "-"], text);
  assert.equal(code, 0);
  assert.match(stdout, /\+ hostname: "nuc-1"\n {2}\+ links\[0\]\.name: "lan0"/);
  assert.match(await applied(text, "--dry-run"), /changed \(dry run\)/);
  assert.equal((await machine()).generation, "0");
  assert.match(await applied(text), /^machine\/nuc-1 changed$/m);
  assert.equal((await machine()).pending, undefined);
  assert.ok(await isReached("192.0.2.1"));
  await until("IPv6", async () => await isReached("2001:db8::1"));
  assert.equal((await inside("cat /sys/class/net/lan0/mtu; hostname")).trim(), "1400\nnuc-1");
  assert.match(await applied(text), /unchanged/);
  // By it the operator reaches the capsule.
  const config = JSON.parse(readFileSync(contextsPath(), "utf8")) as { contexts: Record<string, object> };
  config.contexts["lan"] = { ...config.contexts["test"], host: "192.0.2.1:50000" };
  writeFileSync(contextsPath(), JSON.stringify(config));
  const { stdout: info, stderr } = await fromLan(["capsule", "info"]);
  assert.match(info, /nuc-1/, stderr);
});

test("what is shown can be applied again, and is not another one", async () => {
  const shown = await capsule.ctl(["machine", "get", "-o", "yaml"]);
  assert.match(shown, /^kind: Machine\nhostname: nuc-1\nlinks:\n {2}- name: lan0\n/);
  assert.match(await applied(shown), /unchanged/);
  assert.match(await applied(await capsule.ctl(["machine", "get"])), /unchanged/);
});

test("an operator who is cut off is told so, and let in again by the capsule itself", {
  timeout: 120_000,
}, async () => {
  const before = (await machine()).generation;
  const started = Date.now();
  const elsewhere = "kind: Machine\nname: nuc-1\nlinks: [{name: far0, addresses: [203.0.113.1/24]}]\n";
  const { code, stderr } = await fromLan(["apply", "-f", "-", "--confirm-within=10s"], elsewhere);
  assert.equal(code, 1);
  assert.match(stderr, /does not answer by them yet\. Unless it does, it takes them back by itself in [0-9]s/);
  assert.match(stderr, /taken back: it was not confirmed within 10 s/);
  assert.ok(Date.now() - started > 9_000 && Date.now() - started < 60_000, `${Date.now() - started} ms`);
  const { stdout } = await fromLan(["machine", "get"]);
  assert.match(stdout, /was taken back: it was not confirmed within 10 s[\s\S]*192\.0\.2\.1\/24/);
  assert.equal((await machine()).generation, String(Number(before) + 2));
  assert.doesNotMatch(await inside("ip address show dev far0"), /203\.0\.113/);
  assert.match(await capsule.ctl(["capsule", "logs", "capsuled"]), /document was taken back/);
});

test("an operator whose capsule has another address reaches it there, and the context has it", {
  timeout: 120_000,
}, async () => {
  const { code, stderr } = await fromLan(["apply", "-f", "-"], onLan("192.0.2.5/24"));
  assert.equal(code, 0, stderr);
  assert.match(stderr, /"lan" answers at 192\.0\.2\.5:50000 now/);
  assert.equal(contexts()["lan"]?.host, "192.0.2.5:50000");
  assert.equal((await machine()).pending, undefined);
});

test("capsuled is killed before the confirmation: its next start takes the links back", {
  timeout: 120_000,
}, async () => {
  await applied(onLan("192.0.2.6/24"), "--no-confirm", "--confirm-within=10m");
  await until("made", async () => (await machine()).pending?.inForce === true);
  assert.match(await inside("ip address show dev lan0"), /192\.0\.2\.6\/24/);
  const { code, stderr } = await capsule.apply(onLan("192.0.2.7/24"));
  assert.equal(code, 1);
  assert.match(stderr, /Another document waits for its confirmation/);
  await capsule.killCapsuled();
  await capsule.startCapsuled();
  await capsule.untilServing();
  assert.match(await inside("ip address show dev lan0"), /192\.0\.2\.5\/24/);
  assert.match((await machine()).reverted?.reason ?? "", /started again before it was confirmed/);
});

test("confirmed and taken back by hand", { timeout: 120_000 }, async () => {
  await applied(onLan("192.0.2.6/24"), "--no-confirm");
  await until("made", async () => (await machine()).pending?.inForce === true);
  assert.match(await capsule.ctl(["machine", "revert"]), /is taken back/);
  await until("back", async () => /192\.0\.2\.5\/24/.test(await inside("ip address show dev lan0")));
  await applied(onLan("192.0.2.6/24"), "--no-confirm");
  await until("made", async () => (await machine()).pending?.inForce === true);
  assert.match(await capsule.ctl(["machine", "confirm"]), /is kept/);
  const { code, stderr } = await capsule.try(["machine", "confirm"]);
  assert.equal(code, 1);
  assert.match(stderr, /No document waits/);
});

test("capsuled ends after any effect of a change: what was confirmed stays, and else it is as before", {
  timeout: 600_000,
}, async () => {
  const [before, next] = ["192.0.2.6/24", "192.0.2.7/24"];
  // ALL=1: after each. Tokens and keys are written too, so a change has some twenty.
  const step = process.env["ALL"] === undefined ? 4 : 1;
  let crashes = 0;
  for (let places = 1; ; places += step) {
    await applied(onLan(before));
    const pid = await capsule.capsuledPid();
    await inside(`echo ${places} capsuled >/run/capsule/crash-after`);
    const { code, stderr } = await capsule.apply(onLan(next), "--confirm-within=10s");
    await sleep(500);
    await capsule.startCapsuled();
    await capsule.untilServing();
    const { spec, pending } = await machine();
    const told = `after ${places} effects, exit code ${code}: ${stderr}`;
    assert.deepEqual([spec.links[0]?.addresses[0], pending], [code === 0 ? next : before, undefined], told);
    await until("the kernel has it", async () => {
      const text = await inside("ip -4 -o address show dev lan0");
      return text.includes(code === 0 ? next : before) && text.trim().split("\n").length === 1;
    });
    if ((await capsule.capsuledPid()) === pid) break;
    crashes++;
  }
  assert.ok(crashes >= 12 / step, `${crashes} crashes`);
  console.log(`${crashes} crashes`);
  // The one that is armed still is not to end later.
  await inside("rm -f /run/capsule/crash-after");
  await capsule.killCapsuled();
  await capsule.startCapsuled();
  await capsule.untilServing();
  await applied(onLan(before));
});

test("names are asked of the document's servers, and of the former when it has none", async () => {
  const before = await inside("cat /etc/resolv.conf");
  await applied(`${onLan("192.0.2.6/24")}dns: {servers: [192.0.2.53, "2001:db8::53"], search: [lan.example]}\n`);
  const own = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch lan.example\n";
  assert.ok((await inside("cat /etc/resolv.conf")).startsWith(own));
  await applied(onLan("192.0.2.6/24"));
  assert.equal(await inside("cat /etc/resolv.conf"), before);
});

test("registries are the document's, and their passwords are shown nowhere", async () => {
  const registry = (fields: string): string =>
    `${onLan("192.0.2.6/24")}registries:\n  - host: registry.example\n    mirrors: ["http://10.9.8.7:5000"]\n    username: me\n${fields}`;
  await applied(registry("    password: Sesame-7\n"));
  const { stdout } = await capsule.try(["diff", "-f", "-"], registry("    password: Other-8\n"));
  assert.match(stdout, /registries\[0\]\.password: "\(another\)"/);
  const shown = await Promise.all(
    [
      ["machine", "get", "-o", "json"],
      ["machine", "get"],
      ["registry", "list", "-o", "json"],
    ].map((args) => capsule.ctl(args)),
  );
  for (const text of [...shown, stdout, await inside("cat /perm/log/capsuled.log")])
    assert.doesNotMatch(text, /Sesame-7|Other-8/);
  assert.match(shown[2] ?? "", /"hasPassword": true/);
  // Without a password in the document it is kept; by a call the registry is not to be had.
  assert.match(await applied(await capsule.ctl(["machine", "get", "-o", "yaml"])), /unchanged/);
  const { code, stderr } = await capsule.try(["registry", "remove", "registry.example"]);
  assert.equal(code, 1);
  assert.match(stderr, /is in the machine's document/);
  await applied(onLan("192.0.2.6/24"));
  assert.doesNotMatch(await capsule.ctl(["registry", "list", "-o", "json"]), /registry\.example/);
});

test("the host name is the document's, while it has one", async () => {
  const { code, stderr } = await capsule.try(["capsule", "hostname", "other"]);
  assert.equal(code, 1);
  assert.match(stderr, /in the machine's document \("nuc-1"\)/);
});

test("what cannot be is refused with its place, together with the rest of the file, and nothing is changed", async () => {
  const before = await machine();
  const text = `kind: Container
name: web
container: {image: "busybox:1", ports: [{containerPort: 80, hostPort: 50000}]}
---
kind: Machine
name: nuc-1
links:
  - name: lan0
    addresses: [192.0.2.1/24]
    gateway: 198.51.100.1
  - name: lan1
    addresses: [192.0.2.2/25]
ntp: {servers: [ntp.example]}
`;
  const { code, stderr } = await capsule.try(["apply", "-f", "-"], text);
  assert.equal(code, 1);
  assert.match(stderr, /stdin:3:\d+: container\.ports/);
  const machineOnly = text.slice(text.indexOf("kind: Machine"));
  const { stderr: told } = await capsule.try(["apply", "-f", "-"], machineOnly);
  assert.match(told, /stdin:6:14: links\[0\]\.gateway: 198\.51\.100\.1 is in no subnet/);
  assert.match(told, /stdin:8:17: links\[1\]\.addresses\[0\]: its subnet overlaps/);
  assert.match(told, /stdin:9:6: ntp: the clock of a capsule in a namespace is its host's/);
  // The runner's link has the way out: a document must not take it by the way.
  const other = await capsule.apply(onLan("192.0.2.6/24", "    gateway: 192.0.2.10\n"));
  assert.match(
    other.stderr,
    /stdin:6:14: links\[0\]\.gateway: link "eth0", which is not in the document, is the way out/,
  );
  for (const bad of ["5s", "11m"]) {
    const { stderr: why } = await capsule.apply(onLan("192.0.2.1/24"), `--confirm-within=${bad}`);
    assert.match(why, /10 seconds to 10 minutes/);
  }
  assert.deepEqual(await machine(), before);
});

/** A kernel without modules may have none of these (docs/progress.md). */
async function canMake(type: string): Promise<boolean> {
  const trial = `ip link add name below type veth peer name other && ip link add ${type}`;
  return await run(["unshare", "--net", "sh", "-c", trial]).then(
    () => true,
    () => false,
  );
}

test("VLANs and bonds: made, or refused where the kernel has none", { timeout: 120_000 }, async () => {
  const vlan = `${onLan("192.0.2.6/24")}  - {name: lan0.7, vlan: {link: lan0, id: 7}, addresses: [198.51.100.1/24]}\n`;
  if (await canMake("link below name trial type vlan id 1")) {
    await applied(vlan);
    await run([
      ...client.enter,
      "sh",
      "-c",
      "ip link add link lan0 name v7 type vlan id 7; ip address add 198.51.100.2/24 dev v7; ip link set v7 up",
    ]);
    assert.ok(await isReached("198.51.100.1"));
  } else {
    const { code, stderr } = await capsule.apply(vlan);
    assert.equal(code, 1);
    assert.match(stderr, /stdin:6:26: links\[1\]\.vlan: the kernel of this capsule can make no VLAN/);
  }
  await lan.join(capsule.local.initPid, "lan1");
  const bond = `kind: Machine\nname: nuc-1\nlinks:\n  - name: lan0\n  - name: lan1\n  - {name: bond0, bond: {links: [lan0, lan1]}, addresses: [192.0.2.6/24]}\n`;
  if (await canMake("name trial type bond")) {
    await applied(bond);
    assert.ok(await isReached("192.0.2.6"));
    await applied(onLan("192.0.2.6/24"));
  } else {
    const { code, stderr } = await capsule.apply(bond);
    assert.equal(code, 1);
    assert.match(stderr, /stdin:6:25: links\[2\]\.bond: the kernel of this capsule can make no bond/);
  }
});

test("the documents of docs/machine.md and of the example", async () => {
  const blocks = readFileSync(join(repositoryRoot, "docs/machine.md"), "utf8").matchAll(/^```yaml\n(.*?)^```$/gms);
  const example = readFileSync(join(repositoryRoot, "examples/machine.yaml"), "utf8");
  const texts = [...[...blocks].map(([, text]) => text ?? ""), example];
  assert.ok(texts.length >= 6, `${texts.length} documents`);
  for (const text of texts) {
    const { code, stderr } = await capsule.try(["diff", "-f", "-"], text);
    // What a namespace cannot do is said, and is all that is said.
    const unexpected = stderr
      .split("\n")
      .filter((line) => /stdin:\d/.test(line) && !/can make no|is its host's|has no console|is the way out/.test(line));
    assert.deepEqual([unexpected, code === 0 || stderr.includes("stdin:")], [[], true], `${stderr}\n${text}`);
  }
});

test("links are found by their hardware address; one that is not there yet is set up when it comes", {
  timeout: 120_000,
}, async () => {
  const mac = (await inside("cat /sys/class/net/lan0/address")).trim();
  await applied(`kind: Machine
name: nuc-1
links:
  - {name: first, match: {mac: "${mac}"}, addresses: [192.0.2.8/24]}
  - {name: lan2, addresses: [198.51.100.8/24]}
`);
  assert.match(await inside("ip address show dev lan0"), /192\.0\.2\.8\/24/);
  assert.deepEqual((await machine()).faults, ["link lan2 is not there"]);
  await lan.join(capsule.local.initPid, "lan2");
  await until("lan2", async () => /198\.51\.100\.8\/24/.test(await inside("ip address show dev lan2")));
  await until("no fault", async () => (await machine()).faults.length === 0);
  // Somebody changes it by hand: it is set right.
  await inside("ip address flush dev lan2; ip address add 198.51.100.9/24 dev lan2");
  await until("set right", async () => {
    const text = await inside("ip address show dev lan2");
    return text.includes("198.51.100.8/24") && !text.includes("198.51.100.9/24");
  });
});

test("the document is in force again after a power cut", { timeout: 120_000 }, async () => {
  await capsule.host.cutPower();
  await capsule.host.startAgain();
  await capsule.untilServing();
  assert.equal((await inside("hostname")).trim(), "nuc-1");
  // The runner has made its own link only.
  await lan.join(capsule.local.initPid, "lan2");
  await until("lan2", async () => /198\.51\.100\.8\/24/.test(await inside("ip address show dev lan2")));
});

test("a link asks for an address by DHCP, and has it while capsuled is away", { timeout: 120_000 }, async () => {
  const server = await startDhcp(client.enter, "lan0", "192.0.2.100,192.0.2.150");
  try {
    // The power cut took it.
    await lan.join(capsule.local.initPid, "lan0");
    await applied("kind: Machine\nlinks: [{name: lan0, dhcp: true}]\n");
    const lease = async (): Promise<string> => {
      const found = async () => /inet (192\.0\.2\.1\d\d)\/24/.exec(await inside("ip address show dev lan0"))?.[1];
      for (let i = 0; i < 60; i++) {
        const address = await found();
        if (address !== undefined) return address;
        await sleep(500);
      }
      throw new Error(`no lease: ${await inside("tail -n 20 /perm/log/dhcp.log")}`);
    };
    const address = await lease();
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    assert.equal(await lease(), address);
  } finally {
    server.kill("SIGKILL");
  }
});

test("a deleted document leaves everything as it was before the first", { timeout: 120_000 }, async () => {
  const file = join(capsule.dir, "machine.yaml");
  writeFileSync(file, "kind: Machine\nname: nuc-1\n");
  assert.match(await capsule.ctl(["delete", "-f", file]), /^machine\/\S+ is at its defaults$/m);
  assert.doesNotMatch(await inside("ip address show dev lan2"), /198\.51\.100/);
  assert.doesNotMatch(await inside("ip address show dev lan0"), /192\.0\.2/);
  assert.match(await inside("hostname"), /^capsule-/);
  await capsule.ctl(["capsule", "hostname", "other"]);
  assert.equal((await inside("hostname")).trim(), "other");
});
