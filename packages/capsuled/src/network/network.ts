/**
 * The network of the capsule's workloads: what the store says, brought to the kernel and to dnsmasq. Nothing here knows
 * phases or plans; the reconciler says when.
 */
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { NetworkMode, Protocol } from "@capsule/api";
import type { Logger } from "pino";
import type { TapLink } from "../runtime/driver.ts";
import type { Store } from "../store/store.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import { ToolError } from "../tool.ts";
import { type Addresses, allocate, chooseSubnets, macOf, prefixOf, type Subnets } from "./allocator.ts";
import { DOMAIN, writeHosts } from "./dns.ts";
import { compile, type LinkedWorkload, type NetworkState } from "./firewall.ts";
import { connectTap, ensureBridge, linkWorkload, unlinkWorkload } from "./ip.ts";
import { BRIDGE, linkName } from "./names.ts";
import { loadRuleset } from "./nft.ts";
import { readRoutes } from "./routes.ts";
import { isListening } from "./sockets.ts";

export interface NetworkOptions {
  readonly store: Store;
  readonly log: Logger;
  readonly capsuleId: string;
  /** Default /run/capsule. */
  readonly runDir?: string;
}

export interface FilesRequest {
  readonly uid: string;
  readonly name: string;
  readonly hostname: string;
  readonly network: "bridge" | "host" | "none";
  readonly dns?: {
    readonly servers: readonly string[];
    readonly searches: readonly string[];
    readonly options: readonly string[];
  };
}

/** Changes that come within this time are loaded together, in milliseconds. */
const gatherMs = 2;
const subnetsKey = "workload-subnets";
const lastIndexKey = "last-address-index";

export class Network {
  readonly #store: Store;
  readonly #log: Logger;
  readonly #capsuleId: string;
  readonly #runDir: string;
  #subnets: Subnets | undefined;
  #loaded = "";
  #next: Promise<void> | undefined;
  #running: Promise<void> = Promise.resolve();

  constructor({ store, log, capsuleId, runDir = "/run/capsule" }: NetworkOptions) {
    this.#store = store;
    this.#log = log;
    this.#capsuleId = capsuleId;
    this.#runDir = runDir;
  }

  /**
   * Subnets, bridge, forwarding, firewall and names. Beside workloads that run it changes nothing that they notice: the
   * firewall is loaded in one transaction, and established connections are tracked outside of it.
   */
  async start(): Promise<void> {
    this.#subnets = await this.#chosenSubnets();
    await this.#logged(ensureBridge(BRIDGE, this.#subnets));
    await this.sync();
  }

  /** The workload's addresses, given at the first call. Synchronous: part of the transaction of an apply. */
  addressesOf(uid: string): Omit<Addresses, "index"> {
    const known = this.#store.addresses.of(uid);
    const ipv4 = known.find(({ family }) => family === 4)?.address;
    const ipv6 = known.find(({ family }) => family === 6)?.address;
    if (ipv4 !== undefined && ipv6 !== undefined) return { ipv4, ipv6 };
    return this.#store.transaction(() => {
      const last = Number(this.#store.meta.get(lastIndexKey) ?? 0);
      const given = allocate(this.#known(), (address) => this.#store.addresses.isTaken(address), last);
      this.#store.addresses.release(uid);
      this.#store.addresses.insert({ uid, address: given.ipv4, family: 4 });
      this.#store.addresses.insert({ uid, address: given.ipv6, family: 6 });
      this.#store.meta.set(lastIndexKey, String(given.index));
      return given;
    });
  }

  /** Of the workloads, in CIDR notation; none before the first start. */
  workloadSubnets(): readonly string[] {
    return this.#subnets === undefined ? [] : [this.#subnets.cidr4, this.#subnets.cidr6];
  }

  /** Firewall and names as the store says. Calls while one waits are one; it resolves when what it saw is loaded. */
  sync(): Promise<void> {
    this.#next ??= (async () => {
      await Promise.all([sleep(gatherMs), this.#running]);
      this.#next = undefined;
      this.#running = this.#load();
      const running = this.#running;
      this.#running = running.catch(() => undefined);
      await running;
    })();
    return this.#next;
  }

  /** Links the network namespace of a process to the bridge. */
  async link(uid: string, pid: number): Promise<void> {
    const addresses = this.addressesOf(uid);
    await this.#logged(linkWorkload({ uid, pid, bridge: BRIDGE, addresses }, this.#known()));
  }

  /** The link of a machine: a TAP interface of this name, which is connected once it exists. */
  tapOf(uid: string): TapLink {
    const { ipv4, ipv6 } = this.addressesOf(uid);
    const { cidr4, cidr6, gateway4, gateway6 } = this.#known();
    return {
      name: linkName(uid),
      mac: macOf(ipv4),
      addresses: { ipv4: `${ipv4}${prefixOf(cidr4)}`, gateway4, ipv6: `${ipv6}${prefixOf(cidr6)}`, gateway6 },
      connect: () => this.#logged(connectTap(uid, BRIDGE)),
    };
  }

  async unlink(uid: string): Promise<void> {
    await this.#logged(unlinkWorkload(uid));
  }

  /** /etc/hosts, /etc/hostname and /etc/resolv.conf of a workload: path inside → path on the capsule. */
  async filesFor(request: FilesRequest): Promise<ReadonlyMap<string, string>> {
    const dir = this.#filesDir(request.uid);
    await mkdir(dir, { recursive: true, mode: 0o755 });
    const contents = {
      hosts: this.#hostsText(request),
      hostname: `${request.network === "host" ? (await readFile("/proc/sys/kernel/hostname", "utf8")).trim() : request.hostname}\n`,
      "resolv.conf": await this.#resolvText(request),
    };
    const files = new Map<string, string>();
    for (const [name, text] of Object.entries(contents)) {
      const path = join(dir, name);
      // The same file when it is right already: a container has it mounted by its inode.
      if ((await readFile(path, "utf8").catch(() => undefined)) !== text) {
        await writeFile(`${path}.new`, text, { mode: 0o644 });
        await rename(`${path}.new`, path);
      }
      files.set(`/etc/${name}`, path);
    }
    return files;
  }

  async removeFiles(uid: string): Promise<void> {
    await rm(this.#filesDir(uid), { recursive: true, force: true });
  }

  /** Whether a process of the capsule itself listens on the port. Workloads listen in their own namespaces. */
  async foreignHolder(protocol: "tcp" | "udp", port: number): Promise<boolean> {
    return await isListening(protocol, port);
  }

  async #load(): Promise<void> {
    const records = this.#store.workloads.list();
    const addresses = new Map<string, { ipv4?: string; ipv6?: string }>();
    for (const { uid, address, family } of this.#store.addresses.list()) {
      addresses.set(uid, { ...addresses.get(uid), [family === 4 ? "ipv4" : "ipv6"]: address });
    }
    const linked = records.flatMap((record) => {
      const { ipv4, ipv6 } = addresses.get(record.uid) ?? {};
      return ipv4 === undefined || ipv6 === undefined ? [] : [{ record, ipv4, ipv6 }];
    });
    const { uplink } = await this.#logged(readRoutes(BRIDGE));
    const { cidr4, cidr6 } = this.#known();
    const workloads = linked.map(({ record, ipv4, ipv6 }) => linkedWorkload(record, ipv4, ipv6));
    const state: NetworkState = { bridge: BRIDGE, uplink, cidr4, cidr6, workloads };
    const script = compile(state);
    if (script !== this.#loaded) {
      await this.#logged(loadRuleset(script));
      this.#loaded = script;
    }
    const named = linked.flatMap(({ record, ipv4, ipv6 }) =>
      record.deleting ? [] : [{ uid: record.uid, name: record.name, ipv4, ipv6 }],
    );
    if (await writeHosts(join(this.#runDir, "dns/hosts.d"), named)) await this.#reloadNames();
  }

  /** SIGHUP makes dnsmasq forget names of files that are gone. It may be starting: then it reads them fresh. */
  async #reloadNames(): Promise<void> {
    const pid = Number(await readFile(join(this.#runDir, "dns/dnsmasq.pid"), "utf8").catch(() => ""));
    if (!Number.isInteger(pid) || pid <= 1) return;
    try {
      // A pid from before a crash may be another process's now.
      const name = await readFile(`/proc/${pid}/comm`, "utf8");
      if (name.trim() === "dnsmasq") process.kill(pid, "SIGHUP");
    } catch (error) {
      this.#log.debug({ err: error }, "dnsmasq is not there; it reads the names when it starts");
    }
  }

  #hostsText({ uid, hostname, network }: FilesRequest): string {
    const lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"];
    if (network === "bridge") {
      const { ipv4, ipv6 } = this.addressesOf(uid);
      lines.push(`${ipv4} ${hostname}`, `${ipv6} ${hostname}`);
    } else if (network === "none") lines.push(`127.0.1.1 ${hostname}`);
    return `${lines.join("\n")}\n`;
  }

  async #resolvText({ network, dns }: FilesRequest): Promise<string> {
    if (network === "host") return await readFile("/etc/resolv.conf", "utf8").catch(() => "");
    const servers = [...(dns?.servers ?? []), ...(network === "bridge" ? [this.#known().gateway4] : [])];
    const searches = [...(dns?.searches ?? []), ...(network === "bridge" ? [DOMAIN] : [])];
    return [
      ...servers.map((server) => `nameserver ${server}\n`),
      ...(searches.length > 0 ? [`search ${searches.join(" ")}\n`] : []),
      ...(dns !== undefined && dns.options.length > 0 ? [`options ${dns.options.join(" ")}\n`] : []),
    ].join("");
  }

  async #chosenSubnets(): Promise<Subnets> {
    const stored = this.#store.meta.get(subnetsKey);
    if (stored !== undefined) return JSON.parse(stored) as Subnets;
    const { destinations } = await this.#logged(readRoutes(BRIDGE));
    const chosen = chooseSubnets(this.#capsuleId, destinations);
    this.#store.meta.set(subnetsKey, JSON.stringify(chosen));
    return chosen;
  }

  #known(): Subnets {
    if (this.#subnets === undefined) throw new Error("the network was not started");
    return this.#subnets;
  }

  #filesDir(uid: string): string {
    return join(this.#runDir, "workloads", uid);
  }

  /** What a tool said is for the log only. */
  async #logged<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (error instanceof ToolError) this.#log.error({ stderr: error.stderr.slice(0, 4_000) }, error.message);
      throw error;
    }
  }
}

/** Ports are open while the workload is wanted running; its link is known as long as it has its addresses. */
function linkedWorkload(record: WorkloadRecord, ipv4: string, ipv6: string): LinkedWorkload {
  const spec = record.spec.kind.value;
  const open = record.desired === "running" && !record.deleting;
  const bridged = spec?.networkMode === NetworkMode.UNSPECIFIED || spec?.networkMode === NetworkMode.BRIDGE;
  const ports = open && bridged ? spec.ports : [];
  return {
    uid: record.uid,
    ipv4,
    ipv6,
    ports: ports.map(({ protocol, hostPort, containerPort, hostAddress }) => ({
      protocol: protocol === Protocol.UDP ? "udp" : "tcp",
      hostPort: hostPort === 0 ? containerPort : hostPort,
      containerPort,
      hostAddress,
    })),
  };
}
