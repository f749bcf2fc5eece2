/**
 * Debug sessions: commands with all rights on the machine itself, in a container that has tools of its own. Each session has
 * a container, which is gone with it; one may be kept for the sessions that ask for it, until it is ended or the capsule is
 * restarted. After a kill of capsuled the containers of others belong to nobody and go.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import { KeyedMutex } from "../../mutex.ts";
import type { RuntimeDriver } from "../../runtime/driver.ts";
import type { ImageStore } from "../../runtime/images.ts";
import { newUid } from "../../store/uid.ts";
import { debugInstance, type Root, toolsImage } from "./instance.ts";
import { Reserve } from "./reserve.ts";

const stateDir = "/run/capsule/debug";
const keptName = "kept.json";
const startTimeoutMs = 60_000;
const maxSessions = 16;

export interface DebugSessionsOptions {
  readonly driver: RuntimeDriver;
  readonly images: ImageStore;
  readonly log: Logger;
  /** Default: in /run/capsule, so that nothing of it outlives a boot. */
  readonly stateDir?: string;
  /** File that keeps room on the disk; default in /perm/capsule. */
  readonly reserveFile?: string;
  /** Root of the tool image; by default where the OS image has it. */
  readonly toolsDir?: string;
}

export interface DebugOptions {
  /** Reference of an image on the capsule; the tool image when empty. */
  readonly image: string;
  /** In the container that is kept. */
  readonly keep: boolean;
}

interface Kept {
  readonly uid: string;
  /** Full reference; empty: the tool image. */
  readonly image: string;
}

export class DebugSessions {
  readonly #options: DebugSessionsOptions;
  readonly #stateDir: string;
  readonly #toolsDir: string;
  readonly #live = new Set<string>();
  readonly #mutex = new KeyedMutex();
  readonly #reserve: Reserve;
  #sessions = 0;
  #kept: Kept | undefined;

  constructor(options: DebugSessionsOptions) {
    this.#options = options;
    this.#stateDir = options.stateDir ?? stateDir;
    this.#reserve = new Reserve(options.reserveFile ?? "/perm/capsule/debug-reserve", options.log);
    this.#toolsDir = options.toolsDir ?? "/usr/lib/capsule/tools";
  }

  /** Takes over the container that a capsuled before has kept; what it has left of others goes. */
  async start(): Promise<void> {
    await mkdir(this.#stateDir, { recursive: true, mode: 0o700 });
    await this.#reserve.keep();
    const kept = await readKept(this.#keptFile);
    for (const name of await readdir(this.#stateDir))
      if (kept === undefined || (name !== kept.uid && name !== keptName))
        await rm(join(this.#stateDir, name), { recursive: true, force: true });
    if (kept === undefined) return;
    this.#kept = kept;
    this.#live.add(kept.uid);
  }

  /** Whether an instance is one of these. */
  has(uid: string): boolean {
    return this.#live.has(uid);
  }

  /** The image of the container that is kept; undefined when there is none. */
  get kept(): string | undefined {
    return this.#kept === undefined ? undefined : this.#kept.image || toolsImage;
  }

  /**
   * Calls `work` with the uid of a running container. It is gone when this resolves, unless it is kept. Throws `notFound` for
   * an image that the capsule does not have (NO_IMAGE), `conflict` when another image is kept (OTHER_KEPT).
   */
  async *run<T>({ image, keep }: DebugOptions, work: (uid: string) => AsyncIterable<T>): AsyncGenerator<T> {
    if (this.#sessions >= maxSessions)
      throw new CapsuleError("exhausted", `${maxSessions} debug sessions are open, the most at once.`);
    this.#sessions++;
    try {
      if (keep) {
        yield* work(await this.#mutex.run("kept", () => this.#enterKept(image)));
        return;
      }
      const root = await this.#rootOf(image);
      const uid = newUid("t");
      try {
        await this.#start(uid, root);
        yield* work(uid);
      } finally {
        await this.#remove(uid);
      }
    } finally {
      this.#sessions--;
      if (this.#sessions === 0) await this.#reserve.keep();
    }
  }

  /** Ends the container that is kept, with all that runs in it; false when there is none. */
  async end(): Promise<boolean> {
    return await this.#mutex.run("kept", async () => {
      const kept = this.#kept;
      if (kept === undefined) return false;
      await this.#forgetKept();
      await this.#remove(kept.uid);
      return true;
    });
  }

  /** Removes the containers of open sessions; the one that is kept stays, unless the machine goes down. */
  async stop({ goingDown }: { readonly goingDown: boolean }): Promise<void> {
    const ending = [...this.#live].filter((uid) => goingDown || uid !== this.#kept?.uid);
    await Promise.all(
      ending.map((uid) => this.#options.driver.remove(uid, AbortSignal.timeout(5_000)).catch(() => undefined)),
    );
  }

  get #keptFile(): string {
    return join(this.#stateDir, keptName);
  }

  /** Uid of the container that is kept; makes it when there is none that runs. */
  async #enterKept(reference: string): Promise<string> {
    const { driver, images } = this.#options;
    const kept = this.#kept;
    if (kept !== undefined) {
      const seen = await driver.observe(kept.uid);
      if (seen?.task.state === "running") {
        const wanted = reference === "" ? kept.image : images.normalize(reference);
        if (wanted === kept.image) return kept.uid;
        throw new CapsuleError(
          "conflict",
          `The container that is kept has the image ${kept.image || toolsImage}. End it first: \`capsulectl capsule debug --end\`.`,
          { reason: "OTHER_KEPT" },
        );
      }
      // Somebody has ended what it stands on.
      await this.#forgetKept();
      await this.#remove(kept.uid);
    }
    const root = await this.#rootOf(reference);
    const uid = newUid("t");
    try {
      await this.#start(uid, root);
      const made = { uid, image: root.kind === "image" ? root.reference : "" };
      // Only now: what a capsuled that is killed before has made belongs to nobody and goes.
      await writeFile(`${this.#keptFile}.new`, JSON.stringify(made), { mode: 0o600 });
      await rename(`${this.#keptFile}.new`, this.#keptFile);
      this.#kept = made;
      return uid;
    } catch (error) {
      await this.#remove(uid);
      throw error;
    }
  }

  async #rootOf(reference: string): Promise<Root> {
    if (reference === "") {
      if (existsSync(this.#toolsDir)) return { kind: "tools", directory: this.#toolsDir };
      throw new CapsuleError(
        "precondition",
        `This capsule has no tool image (${this.#toolsDir}): give one by --image.`,
        {
          reason: "NO_TOOLS",
        },
      );
    }
    const { images } = this.#options;
    const full = images.normalize(reference);
    const found = await images.find(full);
    if (found !== undefined) return { kind: "image", reference: full, digest: found.digest };
    throw new CapsuleError("notFound", `The capsule has no image ${full}. \`capsulectl image pull\` fetches it.`, {
      reason: "NO_IMAGE",
      metadata: { image: full },
    });
  }

  async #start(uid: string, root: Root): Promise<void> {
    this.#live.add(uid);
    const logDir = join(this.#stateDir, uid);
    await mkdir(logDir, { recursive: true, mode: 0o700 });
    const start = (): Promise<void> =>
      this.#options.driver.start(
        debugInstance(uid, root, logDir),
        { toProcess: async () => undefined, tap: undefined },
        AbortSignal.timeout(startTimeoutMs),
      );
    await start().catch(async (error: unknown) => {
      const isFull = error instanceof CapsuleError && error.reason === "DISK_FULL";
      if (!isFull || !(await this.#reserve.release())) throw error;
      this.#options.log.warn({ uid }, "the disk is full: the room that was kept for a debug session is used now");
      await start();
    });
  }

  async #forgetKept(): Promise<void> {
    this.#kept = undefined;
    await rm(this.#keptFile, { force: true });
  }

  /** Never throws: what is left belongs to nobody, and the reconciler removes it. */
  async #remove(uid: string): Promise<void> {
    try {
      await this.#options.driver.remove(uid, AbortSignal.timeout(startTimeoutMs));
      await rm(join(this.#stateDir, uid), { recursive: true, force: true });
    } catch (error) {
      this.#options.log.warn({ err: error, uid }, "the container of a debug session is removed later");
    } finally {
      this.#live.delete(uid);
    }
  }
}

async function readKept(file: string): Promise<Kept | undefined> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as Kept;
  } catch {
    return undefined; // none, or one that was never whole
  }
}
