/** Whom the capsule asks for the time: chrony's configuration, with the servers of the document in place of the pool. */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MachineNtp } from "@capsule/api";

export interface ClockPlaces {
  /** chrony's own configuration; default /etc/chrony.conf. */
  readonly original?: string;
  /** Default /run/capsule/machine, which must be there. */
  readonly dir?: string;
}

/** Makes it so; `restart` is called when what chrony was started with is another. */
export async function applyClock(
  ntp: MachineNtp | undefined,
  restart: () => Promise<void>,
  { original = "/etc/chrony.conf", dir = "/run/capsule/machine" }: ClockPlaces = {},
): Promise<void> {
  const path = join(dir, "chrony.conf");
  const present = await readFile(path, "utf8").catch(() => undefined);
  const wanted =
    ntp === undefined || ntp.servers.length === 0
      ? undefined
      : chronyText(await readFile(original, "utf8"), ntp.servers);
  if (present === wanted) return;
  if (wanted === undefined) await rm(path, { force: true });
  else {
    await writeFile(`${path}.new`, wanted);
    await rename(`${path}.new`, path);
  }
  await restart();
}

/** chrony.conf(5). Pure. */
export function chronyText(original: string, servers: readonly string[]): string {
  const others = original.split("\n").filter((line) => !/^\s*(pool|server|peer)\s/.test(line));
  return [...servers.map((server) => `server ${server} iburst`), ...others].join("\n");
}
