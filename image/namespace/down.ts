/** `make down`: stops the capsule NAME (ALL=1: all of this host) and checks that nothing is left; PURGE=1 removes its state. */
import { rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { buildDir } from "../paths.ts";
import { stopCapsule } from "./capsule.ts";
import { readEntries, readEntry } from "./registry.ts";

const { NAME, STATE, PURGE, ALL } = process.env;
const given = NAME !== undefined && NAME !== "" ? NAME : "local";
const names = ALL === "1" ? (await readEntries()).map((entry) => entry.name) : [given];
if (names.length === 0) console.log("no capsule is running");

for (const name of names) {
  try {
    const stateDir = (await readEntry(name))?.stateDir ?? (STATE ? resolve(STATE) : join(buildDir, "state", name));
    const ran = await stopCapsule(name, { onProgress: (line) => console.log(`${name}: ${line}`) });
    console.log(
      `${name}: ${ran ? "stopped" : "was not running"}; no process, mount, link, rule or loop device is left`,
    );
    if (PURGE === "1") await rm(stateDir, { recursive: true, force: true });
    console.log(`${name}: its state ${PURGE === "1" ? "was removed" : "is kept"} (${stateDir})`);
  } catch (error) {
    console.error(`make down: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
}
