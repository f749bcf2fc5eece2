import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { run } from "../run.ts";
import { type RegistryEntry, registryDir } from "./registry.ts";

/** The bridge that joins the capsules of this host. Made with the first, removed with the last. */
export const bridgeName = "capsulebr0";

/** Port of the API inside a capsule. */
const apiPort = 50000;

/** Names what the host has of a capsule's network. */
export function hostLink(capsule: string): string {
  // An interface name has 15 characters at most, a capsule's name may have more.
  return `cv${createHash("sha256").update(capsule).digest("hex").slice(0, 10)}`;
}

export function tableName(capsule: string): string {
  return `capsule_${capsule}`;
}

type Ipv4Object = { ifname?: string; dst?: string; addr_info?: { family: string; local: string; prefixlen: number }[] };

/**
 * Ensures the bridge and returns the first three bytes of its /24, such as `10.213.0`. The subnet is the first of
 * 10.213.0.0/24 … 10.213.255.0/24 that overlaps no route of the host.
 */
export async function ensureBridge(): Promise<string> {
  const existing = (await ipJson(["addr", "show"])).find((link) => link.ifname === bridgeName);
  const present = existing?.addr_info?.find((info) => info.family === "inet")?.local;
  const prefix = present?.split(".").slice(0, 3).join(".") ?? freeSubnet(await routes());
  const commands = [`addr replace ${prefix}.1/24 dev ${bridgeName}`, `link set ${bridgeName} up`];
  if (existing === undefined) commands.unshift(`link add ${bridgeName} type bridge forward_delay 0`);
  await run(["ip", "-batch", "-"], { input: `${commands.join("\n")}\n` });
  // For the port on 127.0.0.1 to reach a capsule; the rules below keep capsules away from the host's loopback.
  await writeFile(`/proc/sys/net/ipv4/conf/${bridgeName}/route_localnet`, "1");
  await enableForwarding();
  return prefix;
}

async function ipJson(args: readonly string[]): Promise<Ipv4Object[]> {
  const text = await run(["ip", "-j", "-4", ...args]);
  return text.trim() === "" ? [] : (JSON.parse(text) as Ipv4Object[]);
}

async function routes(): Promise<string[]> {
  return (await ipJson(["route", "show", "table", "all"])).flatMap((route) => route.dst ?? []);
}

/** The first /24 of 10.213.0.0/16 that overlaps none of the host's routes ("default", "10.0.0.0/8", "10.1.2.3"). */
export function freeSubnet(destinations: readonly string[]): string {
  const taken = destinations.filter((text) => text.includes(".")).map(range);
  for (let third = 0; third < 256; third++) {
    const [first, last] = range(`10.213.${third}.0/24`);
    // A route that covers all of 10.213.0.0/16 is somebody's uplink, not this subnet: ours is more specific and wins.
    const clash = taken.some(([from, to]) => from <= last && to >= first && to - from < 65_535);
    if (!clash) return `10.213.${third}`;
  }
  throw new Error("no free subnet: all of 10.213.0.0/16 is routed on this host");
}

function range(text: string): [first: number, last: number] {
  const [address = "", length = "32"] = text.split("/");
  const value = address.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0);
  const size = 2 ** (32 - Number(length));
  return [value - (value % size), value - (value % size) + size - 1];
}

const forwardingFile = "/proc/sys/net/ipv4/ip_forward";
const forwardingMark = join(registryDir, "ip_forward");

/** Forwarding is global; it is put back with the last capsule, and only when the runner was the one that turned it on. */
async function enableForwarding(): Promise<void> {
  if ((await readFile(forwardingFile, "utf8")).trim() === "1") return;
  await writeFile(forwardingMark, "0\n");
  await writeFile(forwardingFile, "1");
}

/** Removes the bridge when no port is on it any more. */
export async function removeBridgeIfUnused(): Promise<void> {
  if (!existsSync(`/sys/class/net/${bridgeName}`)) return;
  const ports = (await run(["ip", "-o", "link", "show", "master", bridgeName])).trim();
  if (ports !== "") return;
  await run(["ip", "link", "delete", bridgeName]);
  if (!existsSync(forwardingMark)) return;
  await writeFile(forwardingFile, "0");
  await run(["rm", "-f", forwardingMark]);
}

/**
 * An address for the capsule: the same for the same name as long as no other has it.
 * @throws {Error} when all 253 are taken.
 */
export function chooseAddress(capsule: string, prefix: string, entries: readonly RegistryEntry[]): string {
  const taken = new Set(entries.map((entry) => entry.address));
  const start = createHash("sha256").update(capsule).digest().readUInt16BE(0) % 253;
  for (let offset = 0; offset < 253; offset++) {
    const address = `${prefix}.${2 + ((start + offset) % 253)}`;
    if (!taken.has(address)) return address;
  }
  throw new Error(`no free address in ${prefix}.0/24: stop a capsule with make down NAME=…`);
}

/**
 * The port on 127.0.0.1 for the API. A given one must be free; without one the first free from 50000 on is taken.
 * @throws {Error} naming who has the given port.
 */
export async function choosePort(given: number | undefined, entries: readonly RegistryEntry[]): Promise<number> {
  if (given !== undefined) {
    const holder = entries.find((entry) => entry.port === given);
    if (holder !== undefined)
      throw new Error(`port ${given} belongs to the capsule "${holder.name}": give another PORT=`);
    if (!(await isFree(given)))
      throw new Error(`port ${given} on 127.0.0.1 is taken by a process of this host: give another PORT=`);
    return given;
  }
  for (let port = apiPort; port < apiPort + 1000; port++) {
    if (!entries.some((entry) => entry.port === port) && (await isFree(port))) return port;
  }
  throw new Error(`no free port from ${apiPort} on: give one with PORT=`);
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** The capsule's table of host rules, whole; loading it replaces what was there. Pure. */
export function hostRules(capsule: string, address: string, port: number, resolver?: string): string {
  const table = `ip ${tableName(capsule)}`;
  const gateway = address.replace(/\d+$/, "1");
  const dns =
    resolver === undefined
      ? []
      : ["udp", "tcp"].map(
          (protocol) =>
            `    iifname "${bridgeName}" ip saddr ${address} ip daddr ${gateway} ${protocol} dport 53 dnat to ${resolver}`,
        );
  return [
    `table ${table}`,
    `delete table ${table}`,
    `table ${table} {`,
    "  chain guard {",
    "    type filter hook prerouting priority -300; policy accept;",
    `    iifname "${bridgeName}" ip daddr 127.0.0.0/8 drop`,
    "  }",
    "  chain inbound {",
    "    type nat hook prerouting priority -100; policy accept;",
    ...dns,
    "  }",
    "  chain local {",
    "    type nat hook output priority -100; policy accept;",
    `    ip daddr 127.0.0.1 tcp dport ${port} dnat to ${address}:${apiPort}`,
    "  }",
    "  chain outbound {",
    "    type nat hook postrouting priority 100; policy accept;",
    `    ip saddr 127.0.0.0/8 ip daddr ${address} oifname "${bridgeName}" masquerade`,
    `    ip saddr ${address} oifname != "${bridgeName}" masquerade`,
    "  }",
    "}",
    "",
  ].join("\n");
}

export type Resolver = {
  readonly text: string /** A resolver on the host's loopback that queries are led to. */;
  readonly forwardTo?: string;
};

/** The capsule's resolv.conf from the host's: a resolver on the host's own loopback is reached through the bridge. */
export function resolverFor(
  gateway: string,
  hostFiles: readonly string[] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"],
): Resolver {
  let loopback: string | undefined;
  for (const file of hostFiles) {
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1] ?? "");
    const usable = servers.filter((server) => server !== "::1" && !server.startsWith("127."));
    const options = text.split("\n").filter((line) => /^\s*(search|domain|options)\s/.test(line));
    if (usable.length > 0) return { text: [...usable.map((server) => `nameserver ${server}`), ...options].join("\n") };
    loopback ??= servers.find((server) => server.startsWith("127."));
  }
  return loopback === undefined ? { text: "" } : { text: `nameserver ${gateway}`, forwardTo: loopback };
}

/** Joins the capsule whose PID 1 is `pid` on the host to the bridge. Link and address go with its network namespace. */
export async function connect(capsule: string, pid: number, address: string): Promise<void> {
  const link = hostLink(capsule);
  const gateway = address.replace(/\d+$/, "1");
  // Stable, so that what a capsule derives from its first link stays the same over restarts.
  const mac = `02${createHash("sha256").update(`mac ${capsule}`).digest("hex").slice(0, 10)}`.replace(
    /..(?!$)/g,
    "$&:",
  );
  const host = [
    `link add ${link} type veth peer name eth0 address ${mac} netns ${pid}`,
    `link set ${link} master ${bridgeName} up`,
  ];
  const inside = [
    "link set lo up",
    `addr add ${address}/24 dev eth0`,
    "link set eth0 up",
    `route add default via ${gateway}`,
  ];
  await run(["ip", "-batch", "-"], { input: `${host.join("\n")}\n` });
  await run(["nsenter", "-t", String(pid), "-n", "ip", "-batch", "-"], { input: `${inside.join("\n")}\n` });
}

export async function loadRules(script: string): Promise<void> {
  await run(["nft", "-f", "-"], { input: script });
}

/** Removes the capsule's link and rules, if any. */
export async function disconnect(capsule: string): Promise<void> {
  const link = hostLink(capsule);
  if (existsSync(`/sys/class/net/${link}`)) {
    // The kernel takes it away too, some time after the capsule's last process.
    await run(["ip", "link", "delete", link]).catch((error: unknown) => {
      if (existsSync(`/sys/class/net/${link}`)) throw error;
    });
  }
  await run(["nft", "-f", "-"], { input: `table ip ${tableName(capsule)}\ndelete table ip ${tableName(capsule)}\n` });
}
