/** Ports of the capsule that processes listen on: /proc/net (proc(5)). */
import { readFile } from "node:fs/promises";

/** States of net/tcp_states.h: a TCP socket that listens, and a UDP one that is bound and not connected. */
const listening = { tcp: "0A", udp: "07" } as const;

/** Whether some process listens on this port. */
export async function isListening(protocol: "tcp" | "udp", port: number): Promise<boolean> {
  const tables = await Promise.all(
    [protocol, `${protocol}6`].map((name) => readFile(`/proc/net/${name}`, "utf8").catch(() => "")),
  );
  return tables.some((table) => listensIn(table, listening[protocol], port));
}

/** Pure part: lines are `sl local_address rem_address st …`, addresses and ports in hexadecimal. */
export function listensIn(table: string, state: string, port: number): boolean {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return table.split("\n").some((line) => {
    const [, local, , found] = line.trim().split(/\s+/);
    return local?.endsWith(suffix) === true && found === state;
  });
}
