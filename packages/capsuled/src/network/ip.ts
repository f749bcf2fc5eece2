/** ip(8): the bridge of the workloads and their links. */

import { runTool, ToolError } from "../tool.ts";
import { type Addresses, macOf, prefixOf, type Subnets } from "./allocator.ts";
import { checkedInterface, linkName } from "./names.ts";

/** The workload's side of its link. */
export const WORKLOAD_INTERFACE = "eth0";

/**
 * Makes the bridge as it must be, whatever there is. `prefix` is a command to run ip by, such as nsenter with its
 * options. Throws ToolError.
 */
export async function ensureBridge(bridge: string, subnets: Subnets, prefix: readonly string[] = []): Promise<void> {
  const name = checkedInterface(bridge);
  try {
    await runTool([...prefix, "ip", "link", "add", name, "type", "bridge"]);
  } catch (error) {
    if (!isExisting(error)) throw error;
  }
  // Before it is up: while the kernel still looks for duplicates of the bridge's own link-local address, one or two seconds,
  // it solicits no neighbour for packets that it forwards (ndisc_send_ns), and calls from outside wait.
  const dad = [`net.ipv6.conf.${name}.accept_dad=0`, `net.ipv6.conf.${name}.dad_transmits=0`];
  await setSysctls(dad, prefix);
  const bits4 = prefixOf(subnets.cidr4);
  const bits6 = prefixOf(subnets.cidr6);
  const lines = [
    // The address of a bridge without a fixed one changes with its ports, and every neighbour table would be wrong.
    `link set ${name} address ${macOf(subnets.gateway4)} up`,
    `address replace ${subnets.gateway4}${bits4} dev ${name}`,
    `address replace ${subnets.gateway6}${bits6} dev ${name} nodad`,
  ];
  await runTool([...prefix, "ip", "-batch", "-"], `${lines.join("\n")}\n`);
  const settings = [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    // Lets the capsule reach ports of workloads on 127.0.0.1; the firewall keeps workloads from using it.
    `net.ipv4.conf.${name}.route_localnet=1`,
    // Where br_netfilter is loaded it would translate a hairpin inside the bridge, past the masquerade that it needs.
    "net.bridge.bridge-nf-call-iptables=0",
    "net.bridge.bridge-nf-call-ip6tables=0",
  ];
  await setSysctls(settings, prefix);
}

/** Those that the kernel has: others belong to modules that are not loaded. (busybox' `sysctl -e` fails for them.) */
async function setSysctls(settings: readonly string[], prefix: readonly string[]): Promise<void> {
  const pairs = settings.flatMap((setting) => {
    const [name = "", value = ""] = setting.split("=");
    return [`/proc/sys/${name.replaceAll(".", "/")}`, value];
  });
  const script = 'while [ $# -gt 0 ]; do [ ! -e "$1" ] || echo "$2" >"$1" || exit 1; shift 2; done';
  await runTool([...prefix, "sh", "-c", script, "sh", ...pairs]);
}

/**
 * Links the network namespace of process `pid` to the bridge, with the addresses given and default routes. What is left
 * of an earlier try is replaced. The link goes away with the namespace. Throws ToolError.
 */
export async function linkWorkload(
  link: {
    readonly uid: string;
    readonly pid: number;
    readonly bridge: string;
    readonly addresses: Omit<Addresses, "index">;
  },
  subnets: Subnets,
  prefix: readonly string[] = [],
): Promise<void> {
  const name = linkName(link.uid);
  const { ipv4, ipv6 } = link.addresses;
  const peer = `peer name ${WORKLOAD_INTERFACE} address ${macOf(ipv4)} netns ${link.pid}`;
  const outside = `link add ${name} master ${checkedInterface(link.bridge)} up type veth ${peer}\n`;
  try {
    await runTool([...prefix, "ip", "-batch", "-"], outside);
  } catch (error) {
    if (!isExisting(error)) throw error;
    await unlinkWorkload(link.uid, prefix);
    await runTool([...prefix, "ip", "-batch", "-"], outside);
  }
  const bits4 = prefixOf(subnets.cidr4);
  const bits6 = prefixOf(subnets.cidr6);
  const inside = [
    "link set lo up",
    `link set ${WORKLOAD_INTERFACE} up`,
    `address add ${ipv4}${bits4} dev ${WORKLOAD_INTERFACE}`,
    // The allocator and the firewall settle that nobody else has it: no second of waiting for a duplicate.
    `address add ${ipv6}${bits6} dev ${WORKLOAD_INTERFACE} nodad`,
    `route add default via ${subnets.gateway4}`,
    `route add default via ${subnets.gateway6} dev ${WORKLOAD_INTERFACE}`,
  ];
  const enter = ["nsenter", `--net=/proc/${link.pid}/ns/net`];
  await runTool([...enter, "ip", "-batch", "-"], `${inside.join("\n")}\n`);
}

/**
 * Connects an interface that exists to the bridge, as the link of a workload: a TAP interface, which goes away with the
 * process that has it open. Throws ToolError.
 */
export async function connectTap(uid: string, bridge: string, prefix: readonly string[] = []): Promise<void> {
  const name = linkName(uid);
  // The frames are the machine's own: the capsule has no address there.
  const lines = [`link set ${name} addrgenmode none`, `link set ${name} master ${checkedInterface(bridge)} up`];
  await runTool([...prefix, "ip", "-batch", "-"], `${lines.join("\n")}\n`);
}

/** Removes the link of a workload. Safe to call when there is none. Throws ToolError. */
export async function unlinkWorkload(uid: string, prefix: readonly string[] = []): Promise<void> {
  try {
    await runTool([...prefix, "ip", "link", "delete", linkName(uid)]);
  } catch (error) {
    if (!(error instanceof ToolError && error.stderr.includes("Cannot find device"))) throw error;
  }
}

/** iproute2 passes on the kernel's EEXIST in these words. */
function isExisting(error: unknown): boolean {
  return error instanceof ToolError && error.stderr.includes("File exists");
}
