/** Whom the capsule asks for names: /run/resolv.conf, which dnsmasq follows for the workloads. */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MachineDns } from "@capsule/api";

/** Below /run. */
const inForce = "resolv.conf";
/** What a lease or the runner gives; udhcpc's script writes it too (image/files/usr/lib/capsule/udhcpc). */
const given = "capsule/resolv.conf";
/** Exists while the document has servers or domains: then that script leaves the first alone. */
const override = "capsule/machine/resolv.conf";

/** Makes it so; what the document does not say is as it was given. `runDir` is /run. */
export async function applyResolver(dns: MachineDns | undefined, runDir = "/run"): Promise<void> {
  const path = (name: string): string => join(runDir, name);
  const read = (name: string): Promise<string | undefined> => readFile(path(name), "utf8").catch(() => undefined);
  const before = await read(inForce);
  const isOverridden = (await read(override)) !== undefined;
  // The runner's are there before capsuled is; and they are what is in force until the first document has some.
  if (!isOverridden && before !== undefined && (await read(given)) !== before) await replace(path(given), before);
  const lease = (await read(given)) ?? "";
  if (dns === undefined || (dns.servers.length === 0 && dns.search.length === 0)) {
    if (!isOverridden) return;
    // First, or the script would leave alone what nobody writes any more.
    await rm(path(override), { force: true });
    await replace(path(inForce), lease);
    return;
  }
  const text = resolvText(dns, lease);
  if ((await read(override)) !== text) await replace(path(override), text);
  if (before !== text) await replace(path(inForce), text);
}

/** resolv.conf(5). Pure. */
export function resolvText({ servers, search }: MachineDns, lease: string): string {
  const given = lease.split("\n").filter((line) => line !== "");
  const without = (word: string): string[] => given.filter((line) => line.split(/\s+/)[0] !== word);
  const keptServers = given.filter((line) => line.startsWith("nameserver"));
  const others = without("nameserver").filter((line) => !/^(search|domain)\s/.test(line));
  const keptSearch = given.filter((line) => /^(search|domain)\s/.test(line));
  return [
    ...(servers.length > 0 ? servers.map((server) => `nameserver ${server}`) : keptServers),
    ...(search.length > 0 ? [`search ${search.join(" ")}`] : keptSearch),
    ...others,
    "",
  ].join("\n");
}

async function replace(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o644 });
  await rename(`${path}.new`, path);
}
