/**
 * Names of workloads for dnsmasq: a hosts file for each workload in its `--hostsdir`. dnsmasq reads a file again when it
 * is added or changed; names that went away stay until SIGHUP, which the caller sends
 * (dnsmasq(8), --hostsdir).
 */
import { mkdir, readdir, readFile, rename, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** As in image/files/etc/dnsmasq.conf. */
export const DOMAIN = "capsule.internal";

export interface NamedWorkload {
  readonly uid: string;
  readonly name: string;
  readonly ipv4: string;
  readonly ipv6: string;
}

/** Text of a workload's hosts file. */
export function hostsFile({ name, ipv4, ipv6 }: NamedWorkload): string {
  return [ipv4, ipv6].map((address) => `${address} ${name} ${name}.${DOMAIN}\n`).join("");
}

/** Makes the directory hold exactly these names. Returns whether dnsmasq must be told, because names went away. */
export async function writeHosts(dir: string, workloads: readonly NamedWorkload[]): Promise<boolean> {
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const wanted = new Map(workloads.map((workload) => [workload.uid, hostsFile(workload)]));
  const present = new Set((await readdir(dir)).filter((file) => !file.startsWith(".")));
  let removed = false;
  for (const uid of present) {
    if (wanted.has(uid)) continue;
    await unlink(join(dir, uid));
    removed = true;
  }
  for (const [uid, text] of wanted) {
    const path = join(dir, uid);
    if (present.has(uid)) {
      const before = await readFile(path, "utf8").catch(() => "");
      if (before === text) continue;
      removed = true; // the old address of a name would be kept beside the new one
    }
    // dnsmasq skips names that start with a dot, and reads a file when it has its name.
    await writeFile(join(dir, `.${uid}`), text);
    await rename(join(dir, `.${uid}`), path);
  }
  return removed;
}
