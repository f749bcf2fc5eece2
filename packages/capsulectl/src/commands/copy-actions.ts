/**
 * Copies by tar: the capsule packs and unpacks inside the workload, the tar of this machine packs and unpacks here. What
 * comes from a workload is unpacked in a new directory that only the caller may enter, beside its destination, and moved
 * from there when it is whole and harmless.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { basename as posixBasename, dirname as posixDirname } from "node:path/posix";
import { PassThrough, type Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { create } from "@bufbuild/protobuf";
import { type CopyInRequest, CopyInRequestSchema, FileType, type StatPathResponse } from "@capsule/api";
import { writeAll } from "@capsule/api/write-all.ts";
import { Code, ConnectError } from "@connectrpc/connect";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { letBuffersGrow } from "../heap.ts";
import { onInterrupt } from "../interrupt.ts";
import { bytes, note } from "../output.ts";
import { Progress } from "../progress.ts";
import { reasonOf } from "../rpc-errors.ts";
import { type Capsule, withCapsule } from "../session.ts";
import { disarm, discard, placeAs, placeInto } from "../unpacked.ts";

interface Remote {
  readonly kind: "workload" | "volume";
  readonly name: string;
  readonly path: string;
}

export async function copy({ capsule: chosen }: Globals, source: string, destination: string): Promise<void> {
  const [from, to] = [remoteOf(source), remoteOf(destination)];
  letBuffersGrow();
  await withCapsule(chosen, async (capsule) => {
    if (from === undefined && to !== undefined) await copyIn(capsule, source, to);
    else if (from !== undefined && to === undefined) await copyOut(capsule, from, destination);
    else
      throw new CliError(
        "one side of a copy is WORKLOAD:/path or volume/NAME:/path, the other a path here",
        exitCode.usage,
      );
  });
}

/** `web:/etc/x`, or `volume/data:/x`. A path here with a colon is written ./a:/b. */
function remoteOf(text: string): Remote | undefined {
  const match = /^(volume\/)?([a-z0-9][a-z0-9-]{0,62}):(\/.*)$/s.exec(text);
  if (match === null) return undefined;
  return { kind: match[1] === undefined ? "workload" : "volume", name: match[2] ?? "", path: match[3] ?? "" };
}

async function copyIn(capsule: Capsule, source: string, remote: Remote): Promise<void> {
  const { name, path } = remote;
  if (!existsSync(source)) throw new CliError(`${source} does not exist`, exitCode.notFound);
  const isTree = statSync(source).isDirectory();
  // `dir/.` is what is in the directory.
  const contents = isTree && /(^|\/)\.$/.test(source);
  const isDirectory = (await typeOf(capsule, remote)) === FileType.DIRECTORY;
  if (!isDirectory && path.endsWith("/")) throw new CliError(`${name} has no directory ${path}`, exitCode.notFound);
  const absolute = resolve(source);
  const tar = startTar(
    contents ? ["-C", absolute, "-cf", "-", "."] : ["-C", dirname(absolute), "-cf", "-", "--", basename(absolute)],
  );
  const start = isDirectory
    ? { name, path, rename: "" }
    : { name, path: posixDirname(path), rename: posixBasename(path) };
  const progress = new Progress(source);
  try {
    const requests = async function* (): AsyncGenerator<CopyInRequest> {
      yield create(CopyInRequestSchema, { input: { case: "start", value: start } });
      let sent = 0;
      for await (const data of tar.stdout as AsyncIterable<Buffer>) {
        yield create(CopyInRequestSchema, { input: { case: "data", value: data } });
        sent += data.length;
        progress.update(sent, 0);
      }
      await tar.ended;
    };
    const { bytes: count } = await (remote.kind === "volume"
      ? capsule.volumes.copyIntoVolume(requests())
      : capsule.workloads.copyIn(requests()));
    progress.end();
    note(`${bytes(count)} copied`);
  } finally {
    progress.end();
    tar.kill();
  }
}

async function copyOut(capsule: Capsule, remote: Remote, destination: string): Promise<void> {
  const { name, path } = remote;
  const type = await typeOf(capsule, remote);
  if (type === undefined) throw new CliError(`${name} has no ${path}`, exitCode.notFound);
  const isDirectory = existsSync(destination) && statSync(destination).isDirectory();
  const parent = isDirectory ? destination : dirname(resolve(destination));
  if (!existsSync(parent)) throw new CliError(`${parent} does not exist`, exitCode.notFound);
  const scratch = mkdtempSync(join(parent, ".capsule-cp-"));
  const tree = join(scratch, "tree");
  mkdirSync(tree);
  const tar = startTar(["-C", tree, "-xpf", "-", "--no-same-owner"]);
  const keepInterrupts = onInterrupt(() => {
    tar.kill("SIGKILL");
    discard(scratch);
  });
  const progress = new Progress(`${name}:${path}`);
  try {
    let received = 0;
    const data = async function* (): AsyncGenerator<Uint8Array> {
      const chunks =
        remote.kind === "volume"
          ? capsule.volumes.copyOutOfVolume({ name, path })
          : capsule.workloads.copyOut({ name, path });
      for await (const { data: chunk } of chunks) {
        received += chunk.length;
        progress.update(received, 0);
        yield chunk;
      }
    };
    await writeAll(data(), tar.stdin).catch((error: NodeJS.ErrnoException) => {
      // tar ends at the archive's end and does not wait for the padding behind it: its exit code tells.
      if (error.code !== "EPIPE" && error.code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
    });
    await tar.ended;
    const modes = disarm(tree);
    // `/` and `dir/.` come as their contents.
    const contents = path === "/" || path.endsWith("/.");
    if (!isDirectory && !contents) placeAs(tree, destination, modes);
    else {
      if (!isDirectory) mkdirSync(destination);
      placeInto(tree, destination, modes);
    }
    progress.end();
    note(`${bytes(received)} copied`);
  } finally {
    progress.end();
    tar.kill();
    discard(scratch);
    keepInterrupts();
  }
}

async function typeOf(capsule: Capsule, remote: Remote): Promise<FileType | undefined> {
  const { kind, name, path } = remote;
  const stat = async (at: string): Promise<StatPathResponse> =>
    kind === "volume"
      ? await capsule.volumes.statVolumePath({ name, path: at })
      : await capsule.workloads.statPath({ name, path: at });
  try {
    const found = await stat(path);
    if (found.type !== FileType.SYMLINK) return found.type;
    // What a link leads to, as a path that ends in a slash is resolved.
    const target = await stat(`${path}/.`).catch(() => undefined);
    return target?.type ?? FileType.SYMLINK;
  } catch (error) {
    // The path is missing, and not the workload or the volume.
    if (error instanceof ConnectError && error.code === Code.NotFound && reasonOf(error) === "NO_PATH")
      return undefined;
    throw error;
  }
}

interface Tar {
  readonly stdin: NonNullable<ChildProcess["stdin"]>;
  readonly stdout: Readable;
  /** Throws with tar's own words when it failed. */
  readonly ended: Promise<void>;
  kill(signal?: NodeJS.Signals): void;
}

function startTar(args: readonly string[]): Tar {
  const child = spawn("tar", args, {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C", COPYFILE_DISABLE: "1" },
  });
  const errors = text(child.stderr);
  const ended = new Promise<void>((done, failed) => {
    child.once("error", (error) => failed(new CliError(`tar cannot be run: ${error.message}`)));
    child.once("close", async (code) => (code === 0 ? done() : failed(new CliError(`tar: ${(await errors).trim()}`))));
  });
  ended.catch(() => undefined);
  child.stdin.on("error", () => undefined);
  // Node drops the output of a process that has ended if nobody reads it yet: it is read from the start.
  const stdout = child.stdout.pipe(new PassThrough({ highWaterMark: 1024 * 1024 }));
  return { stdin: child.stdin, stdout, ended, kill: (signal) => void child.kill(signal) };
}
