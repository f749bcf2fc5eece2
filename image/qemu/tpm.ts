/** A software TPM 2.0 (swtpm) beside a machine; its state stays in the machine's directory, as a chip's would. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const startTimeoutMs = 5_000;

/** Starts one and returns its socket. It ends by itself when the machine lets go of it. */
export async function startTpm(dir: string): Promise<string> {
  const state = join(dir, "tpm");
  const socket = join(dir, "tpm.sock");
  await mkdir(state, { recursive: true, mode: 0o700 });
  await rm(socket, { force: true });
  const log = await open(join(dir, "tpm.log"), "a", 0o600);
  const child = spawn(
    "swtpm",
    ["socket", "--tpm2", "--tpmstate", `dir=${state}`, "--ctrl", `type=unixio,path=${socket}`, "--terminate"],
    { detached: true, stdio: ["ignore", log.fd, log.fd] },
  );
  let ended: string | undefined;
  child.once("error", (error) => {
    ended = error.message;
  });
  child.once("exit", (code) => {
    ended = `it ended with code ${code}`;
  });
  child.unref();
  const deadline = Date.now() + startTimeoutMs;
  while (ended === undefined && !existsSync(socket) && Date.now() < deadline) await sleep(10);
  await log.close();
  if (!existsSync(socket)) throw new Error(`swtpm did not start: ${ended ?? "no socket"}; see ${join(dir, "tpm.log")}`);
  return socket;
}
