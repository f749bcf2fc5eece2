/** The capsule's links as the kernel has them, read by ip(8) with -j. Those of workloads are left out. */
import { readFile } from "node:fs/promises";
import { runTool } from "../../tool.ts";
import { isWorkloadLink } from "../names.ts";
import { familyOf } from "./cidr.ts";

export interface Observed {
  readonly name: string;
  /** Its own hardware address, also while it has its bond's; lower case. */
  readonly mac: string;
  readonly up: boolean;
  readonly mtu: number;
  /** Such as "vlan", "bond" or "veth"; empty for hardware. */
  readonly kind: string;
  /** Bond or bridge that it belongs to. */
  readonly master: string | undefined;
  /** Of a bond: the link that it prefers. */
  readonly primary: string | undefined;
  /** What neighbours can reach, without link-local ones. */
  readonly addresses: readonly ObservedAddress[];
  /** Next routers of default routes by it. */
  readonly defaults: readonly { readonly family: 4 | 6; readonly gateway: string; readonly protocol: string }[];
  /** As in the kernel: 0 takes no router advertisements, 2 always does; undefined without IPv6. */
  readonly acceptRa: number | undefined;
}

export interface ObservedAddress {
  /** With its prefix. */
  readonly text: string;
  readonly family: 4 | 6;
  /** Came by a router advertisement. */
  readonly dynamic: boolean;
}

interface IpLink {
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly master?: string;
  readonly link_type: string;
  readonly address?: string;
  readonly permaddr?: string;
  readonly linkinfo?: { readonly info_kind?: string; readonly info_data?: { readonly primary?: string } };
  readonly addr_info?: readonly {
    readonly local: string;
    readonly prefixlen: number;
    readonly scope: string;
    readonly dynamic?: boolean;
  }[];
}

interface IpRoute {
  readonly dst: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly protocol?: string;
}

/** Throws ToolError. */
export async function observeLinks(): Promise<Observed[]> {
  const [addresses, routes4, routes6] = await Promise.all([
    json<IpLink>(["ip", "-j", "-d", "address", "show"]),
    json<IpRoute>(["ip", "-j", "-4", "route", "show", "default"]),
    json<IpRoute>(["ip", "-j", "-6", "route", "show", "default"]),
  ]);
  const own = addresses.filter(({ ifname, link_type }) => link_type === "ether" && !isWorkloadLink(ifname));
  return await Promise.all(
    own.map(async (link) => observedOf(link, [...routes4, ...routes6], await acceptRaOf(link.ifname))),
  );
}

/** Pure part of `observeLinks`. */
export function observedOf(link: IpLink, routes: readonly IpRoute[], acceptRa: number | undefined): Observed {
  return {
    name: link.ifname,
    mac: link.permaddr ?? link.address ?? "",
    up: link.flags.includes("UP"),
    mtu: link.mtu,
    kind: link.linkinfo?.info_kind ?? "",
    master: link.master,
    primary: link.linkinfo?.info_kind === "bond" ? link.linkinfo.info_data?.primary : undefined,
    addresses: (link.addr_info ?? [])
      .filter(({ scope }) => scope !== "link")
      .map(({ local, prefixlen, dynamic }) => ({
        text: `${local}/${prefixlen}`,
        family: familyOf(local),
        dynamic: dynamic === true,
      })),
    defaults: routes.flatMap(({ dst, gateway, dev, protocol }) =>
      dst === "default" && dev === link.ifname && gateway !== undefined
        ? [{ family: familyOf(gateway), gateway, protocol: protocol ?? "" }]
        : [],
    ),
    acceptRa,
  };
}

export function acceptRaPath(link: string): string {
  return `/proc/sys/net/ipv6/conf/${link}/accept_ra`;
}

export function disableIpv6Path(link: string): string {
  return `/proc/sys/net/ipv6/conf/${link}/disable_ipv6`;
}

async function acceptRaOf(link: string): Promise<number | undefined> {
  const text = await readFile(acceptRaPath(link), "utf8").catch(() => undefined);
  return text === undefined ? undefined : Number(text);
}

/** `ip -j` prints nothing at all when there is nothing. */
async function json<T>(command: readonly string[]): Promise<T[]> {
  const text = await runTool(command);
  return text.trim() === "" ? [] : (JSON.parse(text) as T[]);
}
