/**
 * Runs once at each boot of a machine, before containerd and capsuled: `/perm` is there afterwards. When it cannot be,
 * a filesystem in memory takes its place, so that the API can be asked what is wrong; nothing of it outlives a reboot.
 * On an installer it leaves every disk alone, and capsuled serves that.
 */

import { appendFileSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { isInstallerBoot, noteInstaller } from "../../install/boot.ts";
import { clearMarker } from "../../install/marker.ts";
import { runTool } from "../../tool.ts";
import { ownBootPartition } from "./boot-partition.ts";
import { readBootDisk } from "./disk.ts";
import { DamagedError, SubstrateError } from "./plan.ts";
import type { StorageStatus } from "./status.ts";
import { prepareSubstrate } from "./substrate.ts";

const statusPath = "/run/capsule/storage.json";
const readyPath = "/run/capsule/perm-ready";
const failuresPath = "/run/capsule/storage-failures";
/** A tool that failed may succeed at the next start of this program; after these many the API is worth more than another try. */
const mostFailures = 3;

/** To the log, and to the person who waits at the console of a first boot. */
function say(text: string): void {
  console.log(text);
  try {
    appendFileSync("/dev/console", `capsule: ${text}\r\n`);
  } catch {
    // A machine without a console has nobody who waits at it.
  }
}

async function report(status: StorageStatus): Promise<void> {
  await writeFile(`${statusPath}.new`, JSON.stringify(status));
  await rename(`${statusPath}.new`, statusPath);
  await writeFile(readyPath, "");
}

async function goOnInMemory(message: string, repairable: boolean): Promise<void> {
  await runTool(["mount", "-t", "tmpfs", "-o", "mode=755,nosuid,nodev,size=25%", "tmpfs", "/perm"]);
  await report({ state: "degraded", message, repairable });
}

/** Counts this failure; whether another try is left. */
async function mayTryAgain(): Promise<boolean> {
  const failures = 1 + Number(await readFile(failuresPath, "utf8").catch(() => "0"));
  await writeFile(failuresPath, String(failures));
  return failures < mostFailures;
}

await mkdir("/run/capsule", { recursive: true });
try {
  const boot = await readBootDisk();
  if (await isInstallerBoot(boot)) await noteInstaller(boot);
  else {
    // Before anybody can write to it.
    await clearMarker(boot.disk);
    await prepareSubstrate(boot, say);
    await ownBootPartition(boot).catch((error: unknown) => say(`disk: the boot partition keeps its id: ${error}`));
    await report({ state: "ready", message: "" });
  }
} catch (error) {
  const { message, stderr = "" } = error as Error & { stderr?: string };
  say(`disk: ${message}`);
  console.log(stderr);
  if (error instanceof SubstrateError) await goOnInMemory(message, error instanceof DamagedError);
  else if (await mayTryAgain()) process.exitCode = 1;
  else await goOnInMemory(`The disk could not be made ready, and was left as it is: ${message}`, false);
}
