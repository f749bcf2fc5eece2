/**
 * Room on the disk that is kept for a debug session: containerd cannot write down a container on a disk without a free byte,
 * and that is when somebody must look.
 */
import { open, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { Logger } from "pino";

const reserveBytes = 8 * 1024 ** 2;
/** Left to others when the reserve is made. */
const marginBytes = 64 * 1024 ** 2;

export class Reserve {
  readonly #path: string;
  readonly #log: Logger;

  constructor(path: string, log: Logger) {
    this.#path = path;
    this.#log = log;
  }

  /** Makes it where there is room for it; never throws. */
  async keep(): Promise<void> {
    const scratch = `${this.#path}.new`;
    try {
      if ((await stat(this.#path).catch(() => undefined))?.size === reserveBytes) return;
      const { bavail, bsize } = await statfs(dirname(this.#path));
      if (bavail * bsize < reserveBytes + marginBytes) return;
      const file = await open(scratch, "w", 0o600);
      try {
        // Written, for a hole takes no room; other than zeros, for some disks keep those as holes.
        await file.writeFile(Buffer.alloc(reserveBytes, "reserve\n"));
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(scratch, this.#path);
    } catch (error) {
      this.#log.warn({ err: error }, "no room could be kept for debug sessions");
      await rm(scratch, { force: true }).catch(() => undefined);
    }
  }

  /** Gives the room to whoever writes next; false when there is none. */
  async release(): Promise<boolean> {
    if ((await stat(this.#path).catch(() => undefined)) === undefined) return false;
    await rm(this.#path, { force: true });
    return true;
  }
}
