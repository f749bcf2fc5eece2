/** Copies in and out of a guest's payload, by its agent. */
import { PassThrough, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { FileType } from "@capsule/api/guest.ts";
import { Code, ConnectError } from "@connectrpc/connect";
import type { PathStat } from "../driver.ts";
import type { Agent } from "./agent.ts";
import { translated } from "./errors.ts";

/** A guest may send what it likes; the capsule takes no more of a path than Linux has. */
const types: Readonly<Record<number, PathStat["type"]>> = {
  [FileType.REGULAR]: "regular",
  [FileType.DIRECTORY]: "directory",
  [FileType.SYMLINK]: "symlink",
};

export async function statGuestPath({ client }: Agent, path: string): Promise<PathStat | undefined> {
  try {
    const { type, mode, size, linkTarget } = await client.statPayloadPath({ path });
    return { type: types[type] ?? "other", mode, sizeBytes: size, linkTarget };
  } catch (error) {
    if (ConnectError.from(error).code === Code.NotFound) return undefined;
    throw translated(error, path);
  }
}

/** Tar stream of a path; destroyed with a CapsuleError when packing fails. */
export function copyOutOfGuest({ bulk }: Agent, path: string, signal: AbortSignal): Readable {
  const out = new PassThrough({ readableObjectMode: true, readableHighWaterMark: 16 });
  const data = (async function* (): AsyncGenerator<Uint8Array> {
    try {
      for await (const { data } of bulk.copyOutOfPayload({ path }, { signal })) yield data;
    } catch (error) {
      throw translated(error, path);
    }
  })();
  pipeline(data, out).catch((error: Error) => out.destroy(error));
  return out;
}

export async function copyIntoGuest(
  { bulk }: Agent,
  path: string,
  rename: string | undefined,
  data: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<{ bytes: bigint; entries: bigint }> {
  const requests = (async function* () {
    yield { input: { case: "start" as const, value: { path, rename: rename ?? "" } } };
    for await (const value of data) yield { input: { case: "data" as const, value } };
  })();
  try {
    const { bytes, entries } = await bulk.copyIntoPayload(requests, { signal });
    return { bytes, entries };
  } catch (error) {
    throw translated(error, path);
  }
}
