/** `make up`: starts the capsule NAME with its state in STATE, its API on PORT, and says how to go on. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { buildLayer } from "../layer.ts";
import { repositoryRoot } from "../paths.ts";
import { buildRootfs } from "../rootfs.ts";
import { AlreadyRunningError, type Capsule, findCapsule, type StartOptions, startCapsule } from "./capsule.ts";

const started = performance.now();

function step(text: string): void {
  console.log(`[${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s] ${text}`);
}

function options(): StartOptions {
  const { NAME, STATE, PORT } = process.env;
  const chosen: StartOptions = { name: NAME !== undefined && NAME !== "" ? NAME : "local" };
  if (STATE !== undefined && STATE !== "") chosen.stateDir = STATE;
  if (PORT !== undefined && PORT !== "") {
    const port = Number(PORT);
    if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new Error(`PORT=${PORT} is no port: 1 to 65535`);
    chosen.port = port;
  }
  return chosen;
}

/** Starts the capsule, or takes the one that runs. */
async function ensureCapsule(chosen: StartOptions): Promise<Capsule> {
  const rootfs = await buildRootfs();
  step("root filesystem ready");
  const layer = await buildLayer();
  step("capsule layer ready");
  try {
    const capsule = await startCapsule(chosen);
    step(`capsule "${capsule.name}" started at ${capsule.address}`);
    return capsule;
  } catch (error) {
    if (!(error instanceof AlreadyRunningError) || error.entry.checkout !== repositoryRoot) throw error;
    const capsule = await findCapsule(chosen.name);
    if (capsule === undefined) throw error;
    step(`${error.message}`);
    if (capsule.layer !== layer || capsule.rootfs !== rootfs) {
      step("it runs an older build: `make down && make up` starts the new one, the state is kept");
    }
    return capsule;
  }
}

/** Waits until containerd answers: the first service that everything else needs. */
async function untilServing(capsule: Capsule): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const serving = await capsule.exec(["ctr", "version"]).then(
      () => true,
      () => false,
    );
    if (serving) return;
    if (Date.now() > deadline)
      throw new Error(`containerd does not answer: see ${join(capsule.perm, "log/containerd.log")}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

try {
  const capsule = await ensureCapsule(options());
  await untilServing(capsule);
  step("containerd answers");
  const hasDaemon = existsSync(join(capsule.layer, "usr/lib/capsule/capsuled.mjs"));
  console.log(`\nPID 1     ${capsule.initPid} on this host\nstate     ${capsule.stateDir}`);
  console.log(`API       ${hasDaemon ? `127.0.0.1:${capsule.port}` : "not in this build: it has no capsuled yet"}`);
  const version = readFileSync(join(capsule.layer, "usr/lib/capsule/version.json"), "utf8").trim();
  console.log(`version   ${version}\n\nTry next:`);
  const suffix = capsule.name === "local" ? "" : ` NAME=${capsule.name}`;
  console.log(
    `  nsenter -t ${capsule.initPid} -a sh      a shell inside\n  make down${suffix}                  stop it, keep its state`,
  );
} catch (error) {
  console.error(`make up: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
