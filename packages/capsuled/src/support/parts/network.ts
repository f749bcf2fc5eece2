/** The network as the kernel has it, and how names are resolved. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { commandPart } from "../command.ts";
import type { Part, PartList } from "../part.ts";
import { filesPart, unlessMissing } from "./files.ts";

const hostsDir = "/run/capsule/dns/hosts.d";

export function networkParts(): (Part | PartList)[] {
  return [
    commandPart("network/links.txt", ["ip", "-s", "-d", "link"]),
    commandPart("network/addresses.txt", ["ip", "address"]),
    commandPart(
      "network/routes.txt",
      ...[
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
      ],
    ),
    commandPart("network/neighbours.txt", ["ip", "-s", "neighbour"]),
    commandPart("network/bridge.txt", ["bridge", "-d", "link"], ["bridge", "fdb"]),
    commandPart("network/sockets.txt", ["ss", "-s"], ["ss", "-tulnp"]),
    // 1 KiB for each workload: rules of 4,000 fit.
    { ...commandPart("network/nftables.txt", ["nft", "list", "ruleset"]), limitBytes: 8 * 1024 ** 2 },
    filesPart(
      "network/counters.txt",
      ["dev", "snmp", "netstat", "softnet_stat", "sockstat"].map((file) => `/proc/net/${file}`),
    ),
    {
      name: "network/dns.txt",
      list: async () => {
        const names = (await readdir(hostsDir).catch(unlessMissing)) ?? [];
        const hosts = names.sort().map((name) => join(hostsDir, name));
        return [filesPart("network/dns.txt", ["/etc/resolv.conf", "/etc/dnsmasq.conf", ...hosts])];
      },
    },
  ];
}
