/** What happens inside a workload: logs, commands, copies. */
import { type ExecRequest, type ExecStart, FileType, LogStream, type WorkloadService } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import { criLines } from "../logs/cri.ts";
import type { LogPlace } from "../logs/files.ts";
import { consoleLog, payloadLog } from "../logs/places.ts";
import { readLog } from "../logs/read.ts";
import type { ExecOptions, ExecSession, PathStat, RuntimeDriver } from "../runtime/driver.ts";
import type { WorkloadRecord } from "../store/workloads.ts";
import { ownKernelOf } from "../workload/own-kernel.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";
import type { WorkloadServiceOptions } from "./workload.ts";

type Session = Pick<ServiceImpl<typeof WorkloadService>, "logs" | "exec" | "statPath" | "copyIn" | "copyOut">;

const fileTypes: Record<PathStat["type"], FileType> = {
  regular: FileType.REGULAR,
  directory: FileType.DIRECTORY,
  symlink: FileType.SYMLINK,
  other: FileType.OTHER,
};

export function workloadSession({ manager, driver, workloadsDir }: WorkloadServiceOptions): Session {
  return {
    async *logs({ name, follow, tail, since, until, streams }, context) {
      const record = manager.get(name);
      // Of one that boots its own kernel there is no other log.
      const ofConsole =
        streams.includes(LogStream.SERIAL) || (streams.length === 0 && ownKernelOf(record.spec) !== undefined);
      const place = ofConsole ? consoleOf(record, streams, workloadsDir) : payloadLog(workloadsDir, record.uid);
      const wanted = criLines({ streams: ofConsole ? [] : streams, since, until });
      for await (const lines of readLog(place, wanted, { follow, tail }, callOf(context).signal)) yield { lines };
    },
    async *exec(requests, context) {
      const { signal } = callOf(context);
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") throw firstMustBeStart();
      const start = first.input.value;
      yield* execute(driver, manager.get(start.name).uid, start, rest, signal);
    },
    async statPath({ name, path }) {
      const found = await driver.statPath(manager.get(name).uid, checkedPath(path));
      if (found === undefined) {
        throw new CapsuleError("notFound", `Workload "${name}" has no ${path}.`, {
          reason: "NO_PATH",
          metadata: { path },
        });
      }
      return statOf(found);
    },
    async copyIn(requests, context) {
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") throw firstMustBeStart();
      const { name, path, rename } = first.input.value;
      const data = (async function* () {
        for await (const { input } of rest) if (input.case === "data") yield input.value;
      })();
      const options = { rename: rename === "" ? undefined : rename };
      return await driver.copyIn(manager.get(name).uid, checkedPath(path), options, data, callOf(context).signal);
    },
    async *copyOut({ name, path }, context) {
      const stream = await driver.copyOut(manager.get(name).uid, checkedPath(path), callOf(context).signal);
      for await (const data of stream as AsyncIterable<Buffer>) yield { data };
    },
  };
}

/** Throws `invalid` when it cannot be shown, or not with these other streams. */
function consoleOf(record: WorkloadRecord, streams: readonly LogStream[], workloadsDir: string): LogPlace {
  if (record.spec.kind.case !== "microVm")
    throw new CapsuleError(
      "invalid",
      `Workload "${record.name}" is a container: only a microVM has a serial console.`,
      {
        reason: "NO_CONSOLE",
      },
    );
  if (streams.some((stream) => stream !== LogStream.SERIAL))
    throw new CapsuleError("invalid", "The serial console is a log of its own: ask for it alone.");
  return consoleLog(workloadsDir, record.uid);
}

/** A command in an instance, from its start to its exit code. */
export async function* execute(
  driver: RuntimeDriver,
  uid: string,
  start: ExecStart,
  rest: AsyncIterable<ExecRequest>,
  signal: AbortSignal,
): AsyncGenerator<ExecOutput> {
  const session = await driver.exec(uid, execOptions(start));
  const end = (): void => void session.dispose();
  signal.addEventListener("abort", end, { once: true });
  try {
    yield { output: { case: "started", value: true } };
    void feed(session, rest);
    for await (const { from, data } of merged(session)) yield { output: { case: from, value: data } };
    yield { output: { case: "exitCode", value: await session.exited } };
  } finally {
    signal.removeEventListener("abort", end);
    await session.dispose();
  }
}

export interface ExecOutput {
  readonly output:
    | { readonly case: "started"; readonly value: boolean }
    | { readonly case: "stdout" | "stderr"; readonly value: Uint8Array }
    | { readonly case: "exitCode"; readonly value: number };
}

export function statOf({ type, mode, sizeBytes: size, linkTarget }: PathStat): {
  type: FileType;
  mode: number;
  size: bigint;
  linkTarget: string;
} {
  return { type: fileTypes[type], mode, size, linkTarget };
}

function execOptions(start: ExecStart): ExecOptions {
  if (start.command.length === 0) {
    const description = "a command is needed";
    throw new CapsuleError("invalid", description, { violations: [{ path: "command", description }] });
  }
  return {
    command: start.command,
    tty: start.tty,
    stdin: start.stdin,
    size: start.size,
    env: new Map(start.env.map(({ name, value }) => [name, value])),
    workingDir: start.workingDir === "" ? undefined : start.workingDir,
    user: start.user === "" ? undefined : start.user,
    privileged: start.privileged,
  };
}

/** Passes the caller's input on, each message taken before the next is read. */
async function feed(session: ExecSession, requests: AsyncIterable<ExecRequest>): Promise<void> {
  try {
    for await (const { input } of requests) {
      if (input.case === "stdin") await session.writeStdin(input.value);
      else if (input.case === "stdinClosed") await session.closeStdin();
      else if (input.case === "resize") await session.resize(input.value);
      else if (input.case === "signal") await session.signal(input.value);
    }
    await session.closeStdin();
  } catch {
    // The caller went away in the middle: the command must not run on without one.
    await session.dispose();
  }
}

interface Output {
  readonly from: "stdout" | "stderr";
  readonly data: Uint8Array;
}

/** Both streams as their data comes. Reading stops while the caller does not take it. */
async function* merged(session: ExecSession): AsyncGenerator<Output> {
  const sources = (["stdout", "stderr"] as const).map((from) => ({
    from,
    iterator: (session[from] as AsyncIterable<Buffer>)[Symbol.asyncIterator](),
  }));
  const next = async (
    source: (typeof sources)[number],
  ): Promise<{ source: typeof source; result: IteratorResult<Buffer> }> => ({
    source,
    result: await source.iterator.next(),
  });
  const pending = new Map(sources.map((source) => [source, next(source)]));
  // The command may end while others that it started hold its output: the shim closes it then.
  while (pending.size > 0) {
    const { source, result } = await Promise.race(pending.values());
    if (result.done === true) pending.delete(source);
    else {
      pending.set(source, next(source));
      yield { from: source.from, data: result.value };
    }
  }
}

export function checkedPath(path: string): string {
  if (path.startsWith("/") && path.length < 4_096 && !path.includes("\0")) return path;
  const description = "an absolute path is needed";
  throw new CapsuleError("invalid", `path: ${description}`, { violations: [{ path: "path", description }] });
}

export function firstMustBeStart(): CapsuleError {
  return new CapsuleError("invalid", "The first message of the stream must be `start`.", { reason: "NO_START" });
}
