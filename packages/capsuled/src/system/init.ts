/** The control socket of capsule-init (native/README.md, "Control socket"): one line in, one line out. */
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { CapsuleError } from "../errors.ts";

const socketPath = "/run/capsule/init.sock";
const timeoutMs = 5_000;

export interface InitStatus {
  readonly uptimeMs: number;
  readonly shutdown: "reboot" | "poweroff" | null;
  readonly configFaults: readonly string[];
  readonly services: readonly {
    readonly name: string;
    readonly state: string;
    readonly pid: number | null;
    readonly restarts: number;
  }[];
}

export async function initStatus(): Promise<InitStatus> {
  return JSON.parse(await ask("status")) as InitStatus;
}

/** Asks PID 1 to go down; it stops capsuled in its turn. */
export async function requestShutdown(kind: "reboot" | "poweroff"): Promise<void> {
  const reply = await ask(kind);
  if (reply !== "ok")
    throw new CapsuleError("precondition", `The capsule does not ${kind}: ${reply.replace(/^error: /, "")}`);
}

/** Resolves when it is accepted; `initStatus` shows the progress. */
export async function requestService(verb: "start" | "stop" | "restart", name: string): Promise<void> {
  const reply = await ask(`${verb} ${name}`);
  if (reply !== "ok") throw new CapsuleError("internal", `capsule-init does not ${verb} the service ${name}: ${reply}`);
}

/** Tells PID 1 that the version on trial was confirmed: it need not watch it any longer. */
export async function requestConfirmed(): Promise<void> {
  const reply = await ask("confirmed");
  if (reply !== "ok") throw new CapsuleError("internal", `capsule-init does not end the trial: ${reply}`);
}

async function ask(request: string): Promise<string> {
  const socket = connect(socketPath);
  socket.setTimeout(timeoutMs, () => socket.destroy(new Error(`no answer within ${timeoutMs} ms`)));
  try {
    socket.end(`${request}\n`);
    return (await text(socket)).trim();
  } catch (error) {
    throw new CapsuleError("unavailable", "capsule-init does not answer.", { cause: error });
  }
}
