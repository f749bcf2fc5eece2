/** A DHCP server on a network of its own: dnsmasq, of the suite that the image is made of. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { programTree } from "../../image/program-tree.ts";

/** On `link` of the network namespace that `enter` leads to; `range` such as "192.0.2.100,192.0.2.150". Ended by killing it. */
export async function startDhcp(enter: readonly string[], link: string, range: string): Promise<ChildProcess> {
  const { root, loader } = await programTree(["dnsmasq-base"]);
  const options = [
    ...["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-", "--leasefile-ro"],
    ...["--user=root", "--pid-file", `--interface=${link}`, "--bind-interfaces", `--dhcp-range=${range},2m`],
  ];
  const [program = "", ...args] = [...enter, ...loader, join(root, "usr/sbin/dnsmasq"), ...options];
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  const said: string[] = [];
  const lines = createInterface({ input: child.stderr });
  lines.on("line", (line) => said.push(line));
  const ended = once(child, "exit").then(() => Promise.reject(new Error(`dnsmasq ended:\n${said.join("\n")}`)));
  ended.catch(() => undefined);
  const ready = (async () => {
    while (!said.some((line) => line.includes("DHCP, IP range"))) await once(lines, "line");
  })();
  await Promise.race([ready, ended]);
  return child;
}
