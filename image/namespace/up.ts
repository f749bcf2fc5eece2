/**
 * `make up`: starts the capsule NAME with its state in STATE, its API on PORT, adopts it as a context of that name, serves
 * an example, and says how to go on. The second time it finds all that and only shows it.
 */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildImages } from "../../test/images/build.ts";
import { answersTls } from "../answers.ts";
import { buildLayer } from "../layer.ts";
import { repositoryRoot } from "../paths.ts";
import { buildRootfs } from "../rootfs.ts";
import { run } from "../run.ts";
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

/** Waits until the API takes connections, and adopts the capsule as a context of its own name, pinned to its key. */
async function adopt(capsule: Capsule): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!(await answersTls(capsule.port))) {
    if (Date.now() > deadline)
      throw new Error(`the API does not answer: see ${join(capsule.perm, "log/capsuled.log")}`);
    await sleep(50);
  }
  step("the API answers");
  const certificate = new X509Certificate(readFileSync(join(capsule.perm, "tls/server.crt")));
  const fingerprint = certificate.fingerprint256.replaceAll(":", "");
  await ctl(["adopt", `127.0.0.1:${capsule.port}`, "--name", capsule.name, "--fingerprint", fingerprint]).catch(
    (error: unknown) => {
      const again = `make down NAME=${capsule.name} PURGE=1 && make up NAME=${capsule.name}`;
      throw new Error(
        `${String(error)}\nIts state knows another key than yours. To begin anew, without its state: ${again}`,
      );
    },
  );
  step(`adopted as context "${capsule.name}"`);
}

/** Serves the example and asks it for its page, as a user would. */
async function showExample(capsule: Capsule): Promise<void> {
  const images = await buildImages();
  await ctl(["--capsule", capsule.name, "image", "push", images.get("hello") ?? ""]);
  step("pushed the example's image");
  await ctl(["--capsule", capsule.name, "apply", "-f", join(repositoryRoot, "examples/hello.yaml"), "--wait=1m"]);
  step("applied examples/hello.yaml: it runs");
  const url = `http://${capsule.address}:8080/`;
  const deadline = Date.now() + 10_000;
  for (;;) {
    const page = await fetch(url, { signal: AbortSignal.timeout(2_000) }).then(
      (response) => response.text(),
      () => undefined,
    );
    if (page !== undefined) {
      console.log(`\n$ curl ${url}\n${page}`);
      return;
    }
    if (Date.now() > deadline) throw new Error(`${url} does not answer: ./capsulectl workload describe hello`);
    await sleep(100);
  }
}

async function ctl(args: readonly string[]): Promise<string> {
  return await run([join(repositoryRoot, "capsulectl"), ...args]);
}

try {
  const capsule = await ensureCapsule(options());
  await adopt(capsule);
  await showExample(capsule);
  const suffix = capsule.name === "local" ? "" : ` NAME=${capsule.name}`;
  console.log(`A capsule runs on this machine.
  API        127.0.0.1:${capsule.port}, context "${capsule.name}"
  workloads  their ports are those of ${capsule.address}
  state      ${capsule.stateDir}

Try next:
  ./capsulectl workload list
  ./capsulectl workload logs -f hello
  ./capsulectl workload exec -t hello -- sh
  ./capsulectl capsule info
  make down${suffix}    stops it and leaves nothing behind; its state is kept`);
} catch (error) {
  console.error(`make up: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
