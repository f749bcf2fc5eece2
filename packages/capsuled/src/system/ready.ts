/** Waiting for what others bring up at a start. Both wait for ever: without it there is nothing to do. */
import { once } from "node:events";
import { access } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const pollMs = 20;

export async function untilExists(path: string): Promise<void> {
  while (
    !(await access(path).then(
      () => true,
      () => false,
    ))
  )
    await sleep(pollMs);
}

/** Until somebody accepts connections on a Unix socket. */
export async function untilAccepts(path: string): Promise<void> {
  for (;;) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return;
    } catch {
      await sleep(pollMs);
    } finally {
      socket.destroy();
    }
  }
}
