/**
 * Runs once at each boot of a machine, before containerd and capsuled: `/perm` is there afterwards. When it cannot be,
 * a filesystem in memory takes its place, so that the API can be asked what is wrong; nothing of it outlives a reboot.
 */
import { mkdir, rename, writeFile } from "node:fs/promises";
import { runTool } from "../../tool.ts";
import { readBootDisk } from "./disk.ts";
import { SubstrateError } from "./plan.ts";
import { prepareSubstrate } from "./substrate.ts";

const statusPath = "/run/capsule/storage.json";
const readyPath = "/run/capsule/perm-ready";

const say = (text: string): void => console.log(text);

async function report(state: "ready" | "degraded", message: string): Promise<void> {
  await writeFile(`${statusPath}.new`, JSON.stringify({ state, message }));
  await rename(`${statusPath}.new`, statusPath);
  await writeFile(readyPath, "");
}

await mkdir("/run/capsule", { recursive: true });
try {
  await prepareSubstrate(await readBootDisk(), say);
  await report("ready", "");
} catch (error) {
  const { message, stderr = "" } = error as Error & { stderr?: string };
  say(`disk: ${message}\n${stderr}`);
  // A tool that failed may succeed at the next try; what is found on the disk stays.
  if (!(error instanceof SubstrateError)) process.exitCode = 1;
  else {
    await runTool(["mount", "-t", "tmpfs", "-o", "mode=755,nosuid,nodev,size=25%", "tmpfs", "/perm"]);
    await report("degraded", message);
  }
}
