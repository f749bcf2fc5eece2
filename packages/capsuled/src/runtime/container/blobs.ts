/**
 * Blobs straight into containerd's content store, which checks their digests; under a lease, so that its garbage
 * collection does not take them before an image refers to them.
 */
import { randomBytes } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import {
  WriteAction,
  type WriteContentRequestSchema,
} from "../../gen/containerd/github.com/containerd/containerd/api/services/content/v1/content_pb.js";
import { type Containerd, isCode, orUndefined } from "./client.ts";
import type { NextPiece, TakenBlob } from "./split-archive.ts";

/** Of one message; containerd takes at most 16 MiB. */
const messageBytes = 256 * 1024;
const leasePrefix = "capsule-import-";
/** Longer than any import takes. What a crash has left is collected then, or at the next start of capsuled. */
const leaseMs = 24 * 3_600_000;

export interface Lease {
  /** For calls whose results it is to hold. */
  readonly headers: Readonly<Record<string, string>>;
  /** With `collect`, what nothing else refers to is gone when this resolves. */
  end(options: { readonly collect: boolean }): Promise<void>;
}

export async function takeLease(client: Containerd): Promise<Lease> {
  const id = `${leasePrefix}${randomBytes(12).toString("hex")}`;
  const expires = new Date(Date.now() + leaseMs).toISOString();
  await client.leases.create({ id, labels: { "containerd.io/gc.expire": expires } });
  return {
    headers: { "containerd-lease": id },
    end: async ({ collect }) => void (await orUndefined(client.leases.delete({ id, sync: collect }))),
  };
}

/** Ends the leases of imports that a killed capsuled has left, and has collected what they held. */
export async function cleanLeases(client: Containerd): Promise<void> {
  const { leases } = await client.leases.list({ filters: [`id~="^${leasePrefix}"`] });
  for (const [i, { id }] of leases.entries())
    await orUndefined(client.leases.delete({ id, sync: i === leases.length - 1 }));
}

/** Stores a blob. Reads none of it when containerd has it already. Throws ConnectError when its digest is another. */
export async function storeBlob(
  client: Containerd,
  { digest, sizeBytes }: TakenBlob,
  next: NextPiece,
  lease: Lease,
  signal: AbortSignal,
): Promise<void> {
  const of = { ref: `${leasePrefix}${randomBytes(12).toString("hex")}`, total: BigInt(sizeBytes), expected: digest };
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const requests = async function* (): AsyncGenerator<MessageInitShape<typeof WriteContentRequestSchema>> {
    yield { ...of, action: WriteAction.WRITE };
    // The first answer tells whether it is wanted.
    await opened;
    let offset = 0;
    // Used again for each message: the one before has been written when the next is asked for (bulk-client.ts).
    const buffer = Buffer.allocUnsafe(messageBytes);
    for (let data = await fill(buffer, next); data.length > 0; data = await fill(buffer, next)) {
      yield { ...of, action: WriteAction.WRITE, offset: BigInt(offset), data };
      offset += data.length;
    }
    // A blob that was cut short is not committed: its end is not what was announced.
    if (offset === sizeBytes) yield { ...of, action: WriteAction.COMMIT, offset: BigInt(offset) };
  };
  try {
    for await (const _ of client.content.write(requests(), { headers: lease.headers, signal })) open();
  } catch (error) {
    if (!isCode(error, Code.AlreadyExists)) throw error;
  }
}

/** Pieces in one of a size that is worth a call; empty at the end. */
async function fill(buffer: Buffer, next: NextPiece): Promise<Buffer> {
  let length = 0;
  while (length < buffer.length) {
    const piece = await next(buffer.length - length);
    if (piece === undefined) break;
    length += piece.copy(buffer, length);
  }
  return buffer.subarray(0, length);
}
