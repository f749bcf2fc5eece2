/**
 * Memory and devices of a Firecracker machine as a stream of bytes. Firecracker writes files and reads files
 * (docs/snapshotting/snapshot-support.md in its sources); they are below the directory of its sockets as long as it needs
 * them. That is its user's directory: capsuled makes each file itself, anew, and reads and writes only by what it has opened.
 * The stream: `magic`, the size of the devices' state in 8 bytes, the state, the memory.
 */
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { RunPaths } from "../layout.ts";
import type { SavedMachine } from "./backend.ts";
import { firecracker } from "./firecracker-api.ts";
import { interfaceId } from "./firecracker-config.ts";

type Sockets = Pick<RunPaths, "sockets" | "control">;

const magic = Buffer.from("capsule firecracker state 1\n");
const sizeBytes = 8;
/** More than the state of devices has; in bytes. */
const maxStateBytes = 64 * 1024 ** 2;
const MiB = 1024 ** 2;
const names = { state: "state", memory: "memory" } as const;

/** As `MachineStates.save`. `inside`: the directory of its sockets as Firecracker sees it. Throws with Firecracker's words. */
export async function saveState(
  { sockets, control }: Sockets,
  inside: string,
  to: Writable,
  atRest: () => Promise<void>,
  { memoryBytes }: SavedMachine,
): Promise<void> {
  const size = wholeMiB(memoryBytes);
  try {
    await withFiles(sockets, async ({ state, memory }) => {
      // While the machine still runs: that there is no room is told before it stands still. And what the monitor itself adds to
      // a file in memory counts against its own limit, which has no room for the guest's memory once more. A file of this very
      // size is written over, and not made anew.
      await memory.writeFile(zeros(size));
      await whilePaused(control, async () => {
        await firecracker(control, "PUT", "/snapshot/create", {
          snapshot_type: "Full",
          snapshot_path: join(inside, names.state),
          mem_file_path: join(inside, names.memory),
        });
        await atRest();
      });
      const found = { state: (await state.stat()).size, memory: (await memory.stat()).size };
      if (found.state === 0 || found.state > maxStateBytes || found.memory !== size)
        throw new Error(`Firecracker wrote a state of ${found.state} and a memory of ${found.memory} bytes`);
      // It has what it needs: the machine goes on meanwhile.
      await pipeline(framed(state, found.state, memory, size), to);
    });
  } catch (error) {
    to.destroy();
    throw error;
  }
}

/** As `MachineStates.restore`. `inside` as above. */
export async function restoreState(
  { sockets, control }: Sockets,
  inside: string,
  from: Readable,
  { memoryBytes, network }: SavedMachine,
): Promise<void> {
  try {
    await withFiles(sockets, async ({ state, memory }) => {
      const bytes = new Bytes(from);
      if (!(await bytes.whole(magic.length)).equals(magic)) throw new Error("it is no state of a Firecracker machine");
      const stateBytes = (await bytes.whole(sizeBytes)).readBigUInt64BE();
      if (stateBytes > maxStateBytes)
        throw new Error(`a state of ${stateBytes} bytes is none of a Firecracker machine`);
      await state.writeFile(bytes.next(Number(stateBytes)));
      await memory.writeFile(bytes.next(wholeMiB(memoryBytes)));
      if (!(await bytes.isAtEnd())) throw new Error("it is the state of a machine with more memory");
      await firecracker(control, "PUT", "/snapshot/load", {
        snapshot_path: join(inside, names.state),
        mem_backend: { backend_type: "File", backend_path: join(inside, names.memory) },
        resume_vm: true,
        // The interface of the machine that was saved may have had another name.
        ...(network === undefined
          ? {}
          : { network_overrides: [{ iface_id: interfaceId, host_dev_name: network.tap }] }),
      });
      // It has the memory's file mapped: the file lasts without a name as long as the machine.
    });
  } finally {
    from.destroy();
  }
}

async function whilePaused(control: string, work: () => Promise<void>): Promise<void> {
  const set = async (state: "Paused" | "Resumed"): Promise<void> => {
    await firecracker(control, "PATCH", "/vm", { state });
  };
  try {
    await set("Paused");
    await work();
  } catch (error) {
    // What went wrong first tells more.
    await set("Resumed").catch(() => undefined);
    throw error;
  }
  await set("Resumed");
}

type Files = Readonly<Record<keyof typeof names, FileHandle>>;

/** Calls `work` with new files that are the machine's user's; they are gone afterwards. */
async function withFiles(dir: string, work: (files: Files) => Promise<void>): Promise<void> {
  const opened: FileHandle[] = [];
  const { uid, gid } = await stat(dir);
  const make = async (name: string): Promise<FileHandle> => {
    const path = join(dir, name);
    await rm(path, { recursive: true, force: true });
    // Fails if there is something again: no link is followed.
    const file = await open(path, "wx+", 0o600);
    opened.push(file);
    await file.chown(uid, gid);
    return file;
  };
  try {
    await work({ state: await make(names.state), memory: await make(names.memory) });
  } finally {
    for (const file of opened) await file.close();
    for (const name of Object.values(names)) await rm(join(dir, name), { recursive: true, force: true });
  }
}

function* zeros(size: number): Generator<Buffer> {
  const chunk = Buffer.alloc(MiB);
  for (let at = 0; at < size; at += MiB) yield chunk;
}

/** Firecracker counts memory in these. */
function wholeMiB(bytes: number): number {
  return Math.ceil(bytes / MiB) * MiB;
}

async function* framed(
  state: FileHandle,
  stateBytes: number,
  memory: FileHandle,
  memoryBytes: number,
): AsyncGenerator<Buffer> {
  const size = Buffer.alloc(sizeBytes);
  size.writeBigUInt64BE(BigInt(stateBytes));
  yield Buffer.concat([magic, size]);
  yield* contentOf(state, stateBytes);
  yield* contentOf(memory, memoryBytes);
}

/** From its beginning. Throws when it is shorter. */
async function* contentOf(file: FileHandle, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < size; ) {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(Math.min(MiB, size - at)), 0, undefined, at);
    if (bytesRead === 0) throw new Error("a file of Firecracker's became shorter");
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** A stream that is read piece by piece. */
class Bytes {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(stream: Readable) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  /** The next ones as they come. Throws when there are fewer. */
  async *next(count: number): AsyncGenerator<Buffer> {
    for (let missing = count; missing > 0; ) {
      if (await this.isAtEnd()) throw new Error("the state of the machine is not whole");
      const chunk = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(chunk.length);
      missing -= chunk.length;
      yield chunk;
    }
  }

  async whole(count: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    for await (const chunk of this.next(count)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done === true) return true;
      this.#rest = value;
    }
    return false;
  }
}
