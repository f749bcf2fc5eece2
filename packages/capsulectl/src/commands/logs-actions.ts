import { type Timestamp, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { LogStream } from "@capsule/api";
import { parseDuration } from "../duration.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { LinePrinter } from "../log-lines.ts";
import { withCapsule } from "../session.ts";

export interface LogsOptions {
  readonly follow?: boolean;
  readonly tail?: string;
  readonly since?: string;
  readonly timestamps?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
  readonly serial?: boolean;
}

export async function logs({ capsule: chosen }: Globals, name: string, options: LogsOptions): Promise<void> {
  const streams = [
    ...(options.stdout === true ? [LogStream.STDOUT] : []),
    ...(options.stderr === true ? [LogStream.STDERR] : []),
    ...(options.serial === true ? [LogStream.SERIAL] : []),
  ];
  if (options.serial === true && streams.length > 1)
    throw new CliError("--serial: the console is a log of its own: leave --stdout and --stderr out", exitCode.usage);
  const request = {
    name,
    follow: options.follow === true,
    streams,
    ...tailOf(options.tail),
    ...sinceOf(options.since),
  };
  const printer = new LinePrinter(options.timestamps === true);
  await withCapsule(chosen, async ({ workloads }) => {
    for await (const { lines } of workloads.logs(request)) {
      const { stdout, stderr } = printer.textOf(lines);
      // What the workload wrote to each of its streams goes to that of ours.
      if (stdout.length > 0) await write(process.stdout, stdout);
      if (stderr.length > 0) await write(process.stderr, stderr);
    }
  });
}

export function tailOf(tail: string | undefined): { tail?: number } {
  if (tail === undefined) return {};
  const lines = Number(tail);
  if (Number.isInteger(lines) && lines >= 0 && lines < 2 ** 32) return { tail: lines };
  throw new CliError(`--tail ${tail}: a number of lines is needed`, exitCode.usage);
}

export function sinceOf(since: string | undefined): { since?: Timestamp } {
  if (since === undefined) return {};
  const ms = parseDuration(since);
  const time = ms === undefined ? new Date(since) : new Date(Date.now() - ms);
  if (Number.isNaN(time.getTime())) {
    throw new CliError(
      `--since ${since}: a duration such as 10m, or a time such as 2026-01-31T12:00:00Z, is needed`,
      exitCode.usage,
    );
  }
  return { since: timestampFromDate(time) };
}

/** Waits while the reader of a pipe is behind. */
export async function write(stream: NodeJS.WriteStream, data: Uint8Array): Promise<void> {
  if (!stream.write(data)) await new Promise<void>((resolve) => stream.once("drain", resolve));
}
