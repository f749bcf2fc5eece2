/** Waiting for what others bring up at a start. Both wait for ever: without it there is nothing to do. */
import { once } from "node:events";
import { existsSync, watch } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const pollMs = 20;

/** One of them, all in one directory, which must be there. */
export async function untilExists(...paths: readonly [string, ...string[]]): Promise<void> {
  const watcher = watch(dirname(paths[0]));
  try {
    while (!paths.some((path) => existsSync(path))) await once(watcher, "change");
  } finally {
    watcher.close();
  }
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
