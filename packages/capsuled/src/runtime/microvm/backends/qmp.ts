/** QEMU's monitor protocol (docs/interop/qmp-spec.rst there): one command at a time, each on a connection of its own. */
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { CapsuleError } from "../../../errors.ts";

const timeoutMs = 10_000;

type Reply = { readonly return?: unknown; readonly error?: { readonly desc: string }; readonly QMP?: unknown };

/** Throws CapsuleError: `unavailable` when nobody answers, `precondition` with QEMU's words when it refuses. */
export async function runQmp(socketPath: string, command: string, args: object = {}): Promise<unknown> {
  const socket = connect(socketPath);
  const timer = setTimeout(() => socket.destroy(new Error("no answer in time")), timeoutMs);
  let fault: Error | undefined;
  socket.on("error", (error) => {
    fault = error;
  });
  try {
    const send = (execute: string, given: object): void => {
      socket.write(`${JSON.stringify({ execute, arguments: given })}\n`);
    };
    let answers = 0;
    for await (const line of createInterface({ input: socket })) {
      const reply = JSON.parse(line) as Reply;
      if (reply.QMP !== undefined) send("qmp_capabilities", {});
      else if (reply.error !== undefined)
        throw new CapsuleError("precondition", `QEMU refused ${command}: ${reply.error.desc}`, {
          reason: "QMP_REFUSED",
        });
      else if (reply.return !== undefined && answers++ === 0) send(command, args);
      else if (reply.return !== undefined) return reply.return;
    }
    throw new CapsuleError("unavailable", `QEMU does not answer ${command}`, { cause: fault, reason: "QMP_GONE" });
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}
