/** Copy in and out: `capsule-init archive` inside the root of a container's process (native/README.md, "Archives"). */
import { type ChildProcess, spawn } from "node:child_process";
import { PassThrough, type Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { writeAll } from "@capsule/api/write-all.ts";
import { CapsuleError } from "../../errors.ts";
import type { PathStat } from "../driver.ts";

const program = "/sbin/capsule-init";
/** Exit code when PATH does not exist. */
const notFound = 3;

export async function statPath(pid: number, path: string): Promise<PathStat | undefined> {
  const child = start(["stat", ...rootOf(pid), path], "ignore");
  const [code, output, errors] = await Promise.all([exitOf(child), text(child.stdout), text(child.stderr)]);
  if (code === notFound) return undefined;
  if (code !== 0) throw failure(code, errors);
  const found = JSON.parse(output) as { type: string; mode: number; size: number; linkTarget?: string | null };
  const type = found.type === "file" ? "regular" : found.type;
  return {
    type: type === "regular" || type === "directory" || type === "symlink" ? type : "other",
    mode: found.mode,
    sizeBytes: BigInt(found.size),
    linkTarget: found.linkTarget ?? "",
  };
}

/** Tar stream of a path; destroyed with a CapsuleError when packing fails. */
export function copyOut(pid: number, path: string, signal: AbortSignal): Readable {
  const child = start(["pack", ...rootOf(pid), path], "ignore", signal);
  // A queue of chunks of 64 KiB: packer and sender work at once, and nothing is joined to ever new large buffers.
  const out = new PassThrough({ readableObjectMode: true, readableHighWaterMark: 16 });
  const errors = text(child.stderr);
  pipeline(child.stdout, out, { end: false }).catch((error: Error) => out.destroy(error));
  void Promise.all([exitOf(child), errors]).then(
    ([code, said]) => {
      if (code === 0) out.end();
      else out.destroy(failure(code, said));
    },
    (error: Error) => out.destroy(error),
  );
  return out;
}

/** Writes a tar stream into the directory `path`. */
export async function copyIn(
  pid: number,
  path: string,
  rename: string | undefined,
  data: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<{ bytes: bigint; entries: bigint }> {
  const renaming = rename === undefined ? [] : ["--rename", rename];
  const child = start(["unpack", ...rootOf(pid), path, ...renaming], "pipe", signal);
  let bytes = 0n;
  const counted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of data) {
      bytes += BigInt(chunk.length);
      yield chunk;
    }
  };
  const stdin = child.stdin;
  if (stdin === null) throw new CapsuleError("internal", "the archiver has no input");
  const errors = text(child.stderr);
  const output = text(child.stdout);
  let sendError: unknown;
  const sending = writeAll(counted(), stdin, signal).catch((error: unknown) => {
    // EPIPE: it has ended before its input; its exit code tells more.
    if ((error as NodeJS.ErrnoException).code !== "EPIPE") {
      sendError = error;
      child.kill("SIGTERM");
    }
  });
  const code = await exitOf(child);
  stdin.destroy();
  await sending;
  if (sendError !== undefined) throw sendError;
  if (code !== 0) throw failure(code, await errors);
  const entries = /([0-9]+)/.exec(await output)?.[1] ?? "0";
  return { bytes, entries: BigInt(entries) };
}

function rootOf(pid: number): string[] {
  return ["--root", `/proc/${pid}/root`];
}

type Archiver = ChildProcess & { readonly stdout: Readable; readonly stderr: Readable };

function start(args: readonly string[], stdin: "ignore" | "pipe", signal?: AbortSignal): Archiver {
  const child = spawn(program, ["archive", ...args], {
    stdio: [stdin, "pipe", "pipe"],
    ...(signal === undefined ? {} : { signal, killSignal: "SIGTERM" as const }),
  });
  return child as unknown as Archiver;
}

function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
}

function failure(code: number | null, stderr: string): CapsuleError {
  const line = stderr
    .split("\n")
    .find((one) => one.startsWith("capsule-init archive: ") && !one.includes(": notice: "));
  const said = line?.slice("capsule-init archive: ".length) ?? `the archiver ended with code ${code}`;
  if (code === notFound) return new CapsuleError("notFound", said, { reason: "NO_PATH" });
  if (/no space left/i.test(said)) return new CapsuleError("exhausted", said, { reason: "DISK_FULL" });
  return new CapsuleError("invalid", said, { reason: "ARCHIVE_REFUSED" });
}
