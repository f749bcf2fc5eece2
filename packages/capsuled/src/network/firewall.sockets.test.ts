/** The compiled rules in real network namespaces, with real sockets. Needs root. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, it } from "node:test";
import { chooseSubnets } from "./allocator.ts";
import { compile } from "./firewall.ts";
import { ensureBridge, linkWorkload } from "./ip.ts";
import { BRIDGE } from "./names.ts";
import { loadRuleset } from "./nft.ts";

/** Answers every connection and datagram with the address that it came from. */
const SERVER = `
  const plain = (a) => a.replace(/^::ffff:/, "");
  require("net").createServer((s) => s.end(plain(s.remoteAddress))).listen(80, "::", () => {
    const u = require("dgram").createSocket("udp6");
    u.on("message", (_, from) => u.send(plain(from.address), from.port, from.address));
    u.bind(80, "::", () => console.log("ready"));
  });`;
const TCP = `
  const s = require("net").connect({ host: process.argv[1], port: process.argv[2], localAddress: process.argv[3] });
  s.setTimeout(1500, () => { console.log("timeout"); process.exit(); });
  s.on("error", (e) => console.log(e.code)).on("data", (d) => console.log(String(d)));`;
const UDP = `
  const u = require("dgram").createSocket("udp4");
  u.on("message", (d) => { console.log(String(d)); process.exit(); }).send("?", process.argv[2], process.argv[1]);
  setTimeout(() => { console.log("timeout"); process.exit(); }, 1500);`;

/** Answers multicast DNS' group and port of both families, and tells whom. */
const MDNS = `
  const { createSocket } = require("dgram");
  for (const [type, group, on] of [["udp4", "224.0.0.251", "0.0.0.0"], ["udp6", "ff02::fb", "::%"]]) {
    const u = createSocket({ type, reuseAddr: true, ipv6Only: type === "udp6" });
    u.on("message", (_, from) => u.send("heard", from.port, from.address));
    u.bind(5353, () => {
      for (const link of ["eth0", "capsule0"]) {
        const own = require("os").networkInterfaces()[link].find(({ family }) => family === "IPv4").address;
        u.addMembership(group, type === "udp4" ? own : on + link);
      }
      if (type === "udp6") console.log("ready");
    });
  }`;
const ASK = `
  const { createSocket } = require("dgram");
  const [, type, to, link] = process.argv;
  const u = createSocket(type).on("message", (d) => { console.log(String(d)); process.exit(); });
  u.bind(() => {
    const own = require("os").networkInterfaces()[link].find(({ family }) => family === "IPv4").address;
    u.setMulticastInterface(type === "udp4" ? own : "::%" + link);
    u.send("?", 5353, to);
  });
  setTimeout(() => { console.log("timeout"); process.exit(); }, 1000);`;

const root = process.getuid?.() === 0;

describe("the firewall in the kernel", { skip: root ? false : "needs root for network namespaces" }, () => {
  const children: ChildProcess[] = [];
  const subnets = chooseSubnets("sockets-test", []);
  const a = { uid: "waaaaaaaaaaaa", ipv4: at(2), ipv6: at6(2) };
  const b = { uid: "waaaaaaaaaaab", ipv4: at(3), ipv6: at6(3) };
  let capsule = 0;
  let outside = 0;
  let [pidA, pidB] = [0, 0];

  function at(index: number): string {
    return subnets.gateway4.replace(/1$/, String(index));
  }
  function at6(index: number): string {
    return subnets.gateway6.replace(/1$/, String(index));
  }
  const enter = (pid: number) => ["nsenter", `--net=/proc/${pid}/ns/net`];

  /** A process with a network namespace of its own, which ends with it. */
  async function namespace(): Promise<number> {
    const child = spawn("unshare", ["--net", process.execPath, "-e", SERVER], { stdio: ["ignore", "pipe", "inherit"] });
    children.push(child);
    await once(child.stdout, "data");
    return child.pid ?? 0;
  }
  function run(pid: number, ...command: string[]): string {
    const [tool = "", ...args] = [...enter(pid), ...command];
    return execFileSync(tool, args, { encoding: "utf8" }).trim();
  }
  const tcp = (pid: number, host: string, port: number, ...from: string[]) =>
    run(pid, process.execPath, "-e", TCP, host, String(port), ...from);
  const udp = (pid: number, host: string, port: number) => run(pid, process.execPath, "-e", UDP, host, String(port));

  before(async () => {
    [capsule, outside, pidA, pidB] = await Promise.all([namespace(), namespace(), namespace(), namespace()]);
    run(capsule, "ip", "link", "set", "lo", "up");
    run(capsule, ..."ip link add eth0 type veth peer name eth0 netns".split(" "), String(outside));
    for (const [pid, ip, ip6] of [
      [capsule, "192.0.2.1/24", "2001:db8::1/64"],
      [outside, "192.0.2.2/24", "2001:db8::2/64"],
    ] as const) {
      run(pid, "ip", "link", "set", "eth0", "up");
      run(pid, "ip", "address", "add", ip, "dev", "eth0");
      run(pid, "ip", "address", "add", ip6, "dev", "eth0", "nodad");
    }
    await ensureBridge(BRIDGE, subnets, enter(capsule));
    await ensureBridge(BRIDGE, subnets, enter(capsule));
    for (const [workload, pid] of [
      [a, pidA],
      [b, pidB],
    ] as const) {
      const link = { uid: workload.uid, pid, bridge: BRIDGE, addresses: workload };
      await linkWorkload(link, subnets, enter(capsule));
    }
    const map = { containerPort: 80, hostAddress: "" } as const;
    const ports = [
      { ...map, protocol: "tcp", hostPort: 8080 },
      { ...map, protocol: "udp", hostPort: 8080 },
      { ...map, protocol: "tcp", hostPort: 8081, hostAddress: "127.0.0.1" },
    ] as const;
    const state = { bridge: BRIDGE, uplink: "eth0", cidr4: subnets.cidr4, cidr6: subnets.cidr6 };
    const rules = compile({
      ...state,
      workloads: [
        { ...a, ports },
        { ...b, ports: [] },
      ],
    });
    await loadRuleset(rules, enter(capsule));
    await loadRuleset(rules, enter(capsule));
  });
  after(() => {
    for (const child of children) child.kill("SIGKILL");
  });

  it("maps ports from outside, and the workload sees who calls", () => {
    assert.equal(tcp(outside, "192.0.2.1", 8080), "192.0.2.2");
    assert.equal(udp(outside, "192.0.2.1", 8080), "192.0.2.2");
    assert.equal(tcp(outside, "2001:db8::1", 8080), "2001:db8::2");
  });

  it("maps ports for the capsule itself, 127.0.0.1 included", () => {
    assert.equal(tcp(capsule, "192.0.2.1", 8080), "192.0.2.1");
    assert.equal(tcp(capsule, "127.0.0.1", 8080), subnets.gateway4);
    assert.equal(udp(capsule, "127.0.0.1", 8080), subnets.gateway4);
    assert.equal(tcp(capsule, "2001:db8::1", 8080), "2001:db8::1");
  });

  it("maps a port of 127.0.0.1 for nobody else", () => {
    assert.equal(tcp(capsule, "127.0.0.1", 8081), subnets.gateway4);
    assert.equal(tcp(outside, "192.0.2.1", 8081), "ECONNREFUSED");
  });

  it("maps ports for workloads: another one, and itself", () => {
    for (const pid of [pidB, pidA]) {
      assert.equal(tcp(pid, "192.0.2.1", 8080), subnets.gateway4);
      assert.equal(tcp(pid, subnets.gateway4, 8080), subnets.gateway4);
      assert.equal(tcp(pid, "2001:db8::1", 8080), subnets.gateway6);
    }
  });

  it("masquerades what leaves by the uplink, and nothing between workloads", () => {
    assert.equal(tcp(pidB, "192.0.2.2", 80), "192.0.2.1");
    assert.equal(tcp(pidB, "2001:db8::2", 80), "2001:db8::1");
    assert.equal(tcp(pidB, a.ipv4, 80), b.ipv4);
    assert.equal(tcp(pidB, a.ipv6, 80), b.ipv6);
  });

  it("lets nobody outside reach a port that is not mapped, also with a route to the workloads", () => {
    run(outside, "ip", "route", "add", subnets.cidr4, "via", "192.0.2.1");
    assert.equal(tcp(outside, a.ipv4, 80), "timeout");
  });

  it("lets multicast DNS in from the network, and not from workloads", async () => {
    const [tool = "", ...args] = [...enter(capsule), process.execPath, "-e", MDNS];
    const listener = spawn(tool, args, { stdio: ["ignore", "pipe", "inherit"] });
    children.push(listener);
    await once(listener.stdout, "data");
    const ask = (pid: number, type: string, to: string) => run(pid, process.execPath, "-e", ASK, type, to, "eth0");
    assert.equal(ask(outside, "udp4", "224.0.0.251"), "heard");
    assert.equal(ask(outside, "udp6", "ff02::fb"), "heard");
    assert.equal(ask(outside, "udp4", "192.0.2.1"), "heard");
    for (const [type, to] of [
      ["udp4", "224.0.0.251"],
      ["udp6", "ff02::fb"],
      ["udp4", subnets.gateway4],
      ["udp4", "192.0.2.1"],
    ] as const)
      assert.equal(ask(pidB, type, to), "timeout", `${type} to ${to}`);
  });

  it("drops what a workload sends from an address or a MAC that is not its own", () => {
    run(pidB, "ip", "address", "add", `${at(9)}/20`, "dev", "eth0");
    assert.equal(tcp(pidB, a.ipv4, 80, b.ipv4), b.ipv4);
    assert.match(tcp(pidB, a.ipv4, 80, at(9)), /timeout|EHOSTUNREACH/);
    run(pidB, "ip", "link", "set", "eth0", "address", "02:ca:00:00:00:09");
    const ping = spawnSync("nsenter", [...enter(pidB).slice(1), process.execPath, "-e", TCP, a.ipv4, "80"]);
    assert.match(String(ping.stdout), /timeout|EHOSTUNREACH/);
  });
});
