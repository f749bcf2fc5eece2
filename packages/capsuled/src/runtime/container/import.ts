/**
 * Import of docker-save and OCI archives through containerd's transfer service, in constant memory; the large blobs of an
 * OCI layout go straight to its content store, for the service takes 64 KiB at a time. containerd checks every digest and
 * names its images only when the whole archive has been read; a lease holds what has come until then. What is left of a
 * broken archive is collected before the answer.
 */
import { statfs } from "node:fs/promises";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import { ImageStoreSchema } from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/imagestore_pb.js";
import { ImageImportStreamSchema } from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/importexport_pb.js";
import {
  DataSchema,
  WindowUpdateSchema,
} from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/streaming_pb.js";
import { type Lease, storeBlob, takeLease } from "./blobs.ts";
import { anyOf, type Containerd, orUndefined, translated, unpack } from "./client.ts";
import type { ImageConfigs } from "./image-config.ts";
import { unsettledLabels } from "./settle.ts";
import { splitArchive } from "./split-archive.ts";
import { openStream, type Stream, unpackHere, watchProgress } from "./transfer.ts";

/** Names without one of their own get this prefix, and are not kept. */
const unnamed = "capsule.invalid/unnamed";
/** Left free on the disk, whatever is pushed. */
const reserveBytes = 256 * 1024 * 1024;
const chunkBytes = 64 * 1024;

/** Imports and unpacks; returns the names of the images. `name` replaces the name of the only one. */
export async function importArchive(
  client: Containerd,
  configs: ImageConfigs,
  data: AsyncIterable<Uint8Array>,
  name: string | undefined,
  signal: AbortSignal,
  log: Logger,
): Promise<string[]> {
  const lease = await takeLease(client);
  let isDone = false;
  try {
    const saved = await importUnder(lease, client, data, signal);
    log.debug({ images: [...saved] }, "imported");
    const names = await settleNames(client, configs, saved, name);
    isDone = true;
    return names;
  } finally {
    await lease.end({ collect: !isDone }).catch((error: unknown) => {
      log.warn({ err: error }, "the lease of an import ends by itself within a day");
    });
  }
}

async function importUnder(
  lease: Lease,
  client: Containerd,
  data: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<Set<string>> {
  const ended = new AbortController();
  const both = AbortSignal.any([signal, ended.signal]);
  const saved = new Set<string>();
  let sendFailure: unknown;
  try {
    const [stream, progress] = await Promise.all([openStream(client, both), openStream(client, both)]);
    const watching = watchProgress(progress, ({ event, name: image }) => {
      if (event === "saved") saved.add(image);
    });
    const sending = sendArchive(client, lease, stream, data, both).catch((error: unknown) => {
      // containerd would wait for the rest for ever.
      sendFailure = error;
      ended.abort(error);
    });
    await client.transfer.transfer(
      {
        source: anyOf(ImageImportStreamSchema, { stream: stream.id }),
        destination: anyOf(ImageStoreSchema, {
          name: "",
          labels: unsettledLabels,
          unpacks: [unpackHere],
          extraReferences: [
            { name: unnamed, isPrefix: true, allowOverwrite: true, addDigest: true, skipNamedDigest: true },
          ],
        }),
        options: { progressStream: progress.id },
      },
      { signal: both, headers: lease.headers },
    );
    progress.end();
    await Promise.race([watching, new Promise((resolve) => setTimeout(resolve, 1_000))]);
    ended.abort();
    await sending;
  } catch (error) {
    if (sendFailure instanceof CapsuleError) throw sendFailure;
    signal.throwIfAborted();
    if (sendFailure !== undefined && sendFailure !== ended.signal.reason) throw sendFailure;
    throw brokenArchive(error);
  } finally {
    ended.abort();
  }
  return saved;
}

/** Checks what was imported and gives it its name; removes again what cannot be kept. */
async function settleNames(
  client: Containerd,
  configs: ImageConfigs,
  saved: ReadonlySet<string>,
  name: string | undefined,
): Promise<string[]> {
  const names = [...saved];
  const discard = async (): Promise<void> => {
    for (const [i, one] of names.entries()) {
      await orUndefined(client.images.delete({ name: one, sync: i === names.length - 1 }));
    }
  };
  if (names.length === 0)
    throw new CapsuleError("invalid", "The archive holds no image for this machine.", { reason: "NO_IMAGE" });
  try {
    if (name === undefined) {
      if (names.some((one) => one.startsWith(unnamed))) {
        throw new CapsuleError("invalid", "The archive names no image: give it one by `--name`.", {
          reason: "NO_NAME",
        });
      }
      for (const one of names) await configs.get(await digestOf(client, one));
      return names;
    }
    const digests = new Set(await Promise.all(names.map((one) => digestOf(client, one))));
    const [digest] = digests;
    if (digests.size !== 1 || digest === undefined) {
      throw new CapsuleError("invalid", `The archive holds ${digests.size} images: one name cannot be given to all.`, {
        reason: "SEVERAL_IMAGES",
      });
    }
    await configs.get(digest);
    await rename(client, names, name);
    return [name];
  } catch (error) {
    await discard();
    throw error;
  }
}

async function digestOf(client: Containerd, name: string): Promise<string> {
  return (await client.images.get({ name })).image?.target?.digest ?? "";
}

async function rename(client: Containerd, names: readonly string[], name: string): Promise<void> {
  const [first = ""] = names;
  const image = (await client.images.get({ name: first })).image;
  if (image === undefined) throw new CapsuleError("internal", `containerd lost image ${first}`);
  const renamed = { name, labels: image.labels, ...(image.target === undefined ? {} : { target: image.target }) };
  if ((await orUndefined(client.images.get({ name }))) === undefined) await client.images.create({ image: renamed });
  else await client.images.update({ image: renamed });
  for (const one of names) if (one !== name) await orUndefined(client.images.delete({ name: one }));
}

/** Sends the archive, large blobs beside it. */
async function sendArchive(
  client: Containerd,
  lease: Lease,
  stream: Stream,
  data: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  const sender = new WindowSender(stream, signal);
  await splitArchive(limited(data, await freeBytes(), signal), {
    pass: (piece) => sender.send(piece),
    take: async (blob, next) => {
      await storeBlob(client, blob, next, lease, signal).catch((error: unknown) => {
        throw signal.aborted ? error : brokenArchive(error);
      });
    },
    giveBack: async (blobs) => {
      for (const { digest, sizeBytes, header } of blobs) {
        await sender.send(header);
        for await (const { data: piece } of client.content.read({ digest }, { signal })) await sender.send(piece);
        await sender.send(new Uint8Array((512 - (sizeBytes % 512)) % 512));
      }
    },
  });
  await sender.end();
}

/** Nothing more once the import has ended, and never more than fits. */
async function* limited(
  data: AsyncIterable<Uint8Array>,
  limit: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  let received = 0;
  for await (const chunk of data) {
    if (signal.aborted) return;
    received += chunk.length;
    if (received > limit) {
      const message = "The archive does not fit on the capsule's disk. Remove images or workloads.";
      throw new CapsuleError("exhausted", message, { reason: "DISK_FULL" });
    }
    yield chunk;
  }
}

/**
 * Sends as containerd opens its window: it says how much it takes. One message is at most 64 KiB, so that the window is
 * never far overrun.
 */
class WindowSender {
  readonly #stream: Stream;
  readonly #signal: AbortSignal;
  readonly #receiving: Promise<void>;
  #window = 0;
  #closed = false;
  #wake: () => void = () => undefined;

  constructor(stream: Stream, signal: AbortSignal) {
    this.#stream = stream;
    this.#signal = signal;
    this.#receiving = this.#receive();
    signal.addEventListener("abort", () => this.#wake(), { once: true });
  }

  /** Sends nothing more when containerd has what it needs, or has failed: its answer tells. */
  async send(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; at += chunkBytes) {
      while (this.#window <= 0 && !this.#closed && !this.#signal.aborted) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      if (this.#closed || this.#signal.aborted) return;
      const part = data.subarray(at, at + chunkBytes);
      this.#window -= part.length;
      this.#stream.send(anyOf(DataSchema, { data: part }));
    }
  }

  async end(): Promise<void> {
    if (this.#closed || this.#signal.aborted) return;
    this.#stream.end();
    await this.#receiving;
  }

  async #receive(): Promise<void> {
    try {
      for await (const any of this.#stream.received) {
        this.#window += unpack(any, WindowUpdateSchema)?.update ?? 0;
        this.#wake();
      }
    } catch {
      // The transfer's own error tells why.
    }
    this.#closed = true;
    this.#wake();
  }
}

async function freeBytes(): Promise<number> {
  const { bavail, bsize } = await statfs("/perm/containerd");
  return Math.max(0, bavail * bsize - reserveBytes);
}

function brokenArchive(error: unknown): CapsuleError {
  const known = translated(error, "The archive was refused");
  // Whatever containerd calls it, the archive is what it complains of.
  if (known.kind !== "internal" && known.kind !== "notFound") return known;
  return new CapsuleError("invalid", known.message, { cause: error, reason: "BROKEN_ARCHIVE" });
}
