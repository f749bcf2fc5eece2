/** Logs of the system's own services, as capsule-init keeps them: a time stamp, a blank, the line. */
import { readdir } from "node:fs/promises";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { SystemLogLine } from "@capsule/api";
import { CapsuleError } from "../errors.ts";
import { type ReadOptions, readLog, type Split } from "../logs/read.ts";

export const systemLogDir = "/perm/log";
const newline = 10;

/** The services that have a log. */
export async function loggedServices(): Promise<string[]> {
  const names = await readdir(systemLogDir).catch(() => []);
  return names.flatMap((name) => (name.endsWith(".log") ? [name.slice(0, -".log".length)] : [])).sort();
}

/**
 * Batches of lines of several services. Each service's lines are in order; with one batch of each in turn while they are
 * followed. Throws `notFound` for a service without a log.
 */
export async function* readSystemLogs(
  services: readonly string[],
  options: ReadOptions & { readonly since: Date | undefined },
  signal: AbortSignal,
): AsyncGenerator<SystemLogLine[]> {
  const known = await loggedServices();
  for (const service of services) {
    if (!known.includes(service)) {
      throw new CapsuleError(
        "notFound",
        `No service "${service.slice(0, 64)}" has a log; there are ${known.join(", ")}.`,
      );
    }
  }
  const sources = (services.length === 0 ? known : [...new Set(services)]).map((service) =>
    readLog({ dir: systemLogDir, name: `${service}.log` }, systemLines(service, options.since), options, signal),
  );
  if (!options.follow) {
    // All at once, so that the lines of one moment stand together.
    const lines: SystemLogLine[] = [];
    for (const source of sources) for await (const batch of source) lines.push(...batch);
    lines.sort((a, b) => timeOf(a) - timeOf(b));
    for (let i = 0; i < lines.length; i += 1_000) yield lines.slice(i, i + 1_000);
    return;
  }
  yield* merged(sources);
}

async function* merged<T>(sources: readonly AsyncGenerator<T>[]): AsyncGenerator<T> {
  const next = async (source: AsyncGenerator<T>) => ({ source, result: await source.next() });
  const pending = new Map(sources.map((source) => [source, next(source)]));
  try {
    while (pending.size > 0) {
      const { source, result } = await Promise.race(pending.values());
      if (result.done === true) pending.delete(source);
      else {
        pending.set(source, next(source));
        yield result.value;
      }
    }
  } finally {
    for (const source of sources) void source.return(undefined);
  }
}

function systemLines(service: string, since: Date | undefined): Split<SystemLogLine[]> {
  const split = (block: Buffer) => {
    const lines: SystemLogLine[] = [];
    const starts: number[] = [];
    let at = 0;
    for (;;) {
      const end = block.indexOf(newline, at);
      if (end === -1) return { lines, starts, consumed: at };
      const text = block.toString("utf8", at, end);
      const start = at;
      at = end + 1;
      const blank = text.indexOf(" ");
      const time = new Date(text.slice(0, blank));
      if (blank === -1 || Number.isNaN(time.getTime()) || (since !== undefined && time < since)) continue;
      starts.push(start);
      lines.push({
        $typeName: "capsule.v1.SystemLogLine",
        time: timestampFromDate(time),
        service,
        text: text.slice(blank + 1),
      });
    }
  };
  return {
    take: (block) => {
      const { lines, consumed } = split(block);
      return { batch: lines.length === 0 ? undefined : lines, consumed };
    },
    starts: (block) => split(block).starts,
  };
}

function timeOf({ time }: SystemLogLine): number {
  return time === undefined ? 0 : Number(time.seconds) * 1000 + time.nanos / 1e6;
}
