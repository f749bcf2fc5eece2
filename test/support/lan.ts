/** A network of its own, in namespaces: a bridge that nothing of this host is on, and whoever joins it. Needs root. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { run } from "../../image/run.ts";

/** A process that only holds a network namespace, which ends with it. */
export class NetworkNamespace {
  readonly #holder: ChildProcess;

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
  }

  static async make(): Promise<NetworkNamespace> {
    const holder = spawn("unshare", ["--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(holder.stdout, "data");
    return new NetworkNamespace(holder);
  }

  get pid(): number {
    return this.#holder.pid ?? 0;
  }

  /** The command that runs another one in it. */
  get enter(): readonly string[] {
    return enterNetwork(this.pid);
  }

  close(): void {
    this.#holder.kill("SIGKILL");
  }
}

export function enterNetwork(pid: number): readonly string[] {
  return ["nsenter", `--net=/proc/${pid}/ns/net`];
}

export class Lan {
  readonly #inside: NetworkNamespace;
  #ports = 0;

  private constructor(inside: NetworkNamespace) {
    this.#inside = inside;
  }

  static async make(): Promise<Lan> {
    const inside = await NetworkNamespace.make();
    await run([...inside.enter, ..."ip link add lan type bridge forward_delay 0".split(" ")]);
    await run([...inside.enter, ..."ip link set lan up".split(" ")]);
    return new Lan(inside);
  }

  /**
   * Gives the network namespace of process `pid` an interface on this network, with an IPv4 address such as 192.0.2.1/24. The
   * answer pulls its plug, or puts it in again.
   */
  async join(pid: number, name: string, address?: string): Promise<(isPlugged: boolean) => Promise<void>> {
    const port = `port${this.#ports++}`;
    await run([
      "ip",
      "link",
      "add",
      name,
      "netns",
      String(pid),
      "type",
      "veth",
      "peer",
      port,
      "netns",
      String(this.#inside.pid),
    ]);
    await run([...this.#inside.enter, "ip", "link", "set", port, "master", "lan", "up"]);
    if (address !== undefined) await run([...enterNetwork(pid), "ip", "address", "add", address, "dev", name]);
    await run([...enterNetwork(pid), "ip", "link", "set", name, "up"]);
    return async (isPlugged) => {
      await run([...this.#inside.enter, "ip", "link", "set", port, isPlugged ? "up" : "down"]);
    };
  }

  /** A TAP interface on this network, for a virtual machine; `enter` runs its program where that is. */
  async tap(name: string): Promise<{ readonly enter: readonly string[]; readonly name: string }> {
    const { enter } = this.#inside;
    await run([...enter, "ip", "tuntap", "add", "dev", name, "mode", "tap"]);
    await run([...enter, "ip", "link", "set", name, "master", "lan", "up"]);
    return { enter, name };
  }

  /** All interfaces on it go too. */
  close(): void {
    this.#inside.close();
  }
}
