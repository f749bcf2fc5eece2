import { connect } from "node:net";

/**
 * One command to a QEMU (QMP, https://www.qemu.org/docs/master/interop/qmp-spec.html); a connection for each. Returns
 * what it answered. Throws with QEMU's own words.
 */
export async function qmp(socketPath: string, execute: string, args: Record<string, unknown> = {}): Promise<unknown> {
  const socket = connect(socketPath);
  let buffered = "";
  const lines: string[] = [];
  let wake: () => void = () => undefined;
  let failure: Error | undefined;
  socket.on("data", (data: Buffer) => {
    buffered += data.toString("utf8");
    const parts = buffered.split("\n");
    buffered = parts.pop() ?? "";
    lines.push(...parts);
    wake();
  });
  socket.once("error", (error) => {
    failure = error;
    wake();
  });
  socket.once("close", () => {
    failure ??= new Error(`QEMU closed ${socketPath}`);
    wake();
  });
  const next = async (): Promise<Record<string, unknown>> => {
    for (;;) {
      const line = lines.shift();
      if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
      if (failure !== undefined) throw failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  const answer = async (): Promise<unknown> => {
    for (;;) {
      const message = await next();
      if ("error" in message) throw new Error(`QEMU, ${execute}: ${(message["error"] as { desc: string }).desc}`);
      if ("return" in message) return message["return"];
    }
  };
  try {
    await next(); // the greeting
    socket.write(`${JSON.stringify({ execute: "qmp_capabilities" })}\n`);
    await answer();
    socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    return await answer();
  } finally {
    socket.destroy();
  }
}
