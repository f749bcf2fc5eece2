/**
 * Streams of containerd's streaming service, by which its transfer service takes archives and tells progress
 * (containerd 1.7, pkg/transfer/streaming and docs/transfer.md).
 */
import { randomBytes } from "node:crypto";
import type { create } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { StreamInitSchema } from "../../gen/containerd/github.com/containerd/containerd/api/services/streaming/v1/streaming_pb.js";
import type { UnpackConfigurationSchema } from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/imagestore_pb.js";
import {
  type Progress,
  ProgressSchema,
} from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/progress_pb.js";
import { anyOf, type Containerd, SNAPSHOTTER, unpack } from "./client.ts";
import { architecture } from "./image-config.ts";

/** A stream that containerd knows by its id. Ends when `signal` aborts. */
export interface Stream {
  readonly id: string;
  send(message: Any): void;
  /** No more is sent. */
  end(): void;
  readonly received: AsyncIterable<Any>;
}

/** Opens a stream; resolves when containerd has registered its id. */
export async function openStream(client: Containerd, signal: AbortSignal): Promise<Stream> {
  const id = `capsule-${randomBytes(12).toString("hex")}`;
  const outgoing = new Outgoing();
  outgoing.push(anyOf(StreamInitSchema, { id }));
  const received = client.streaming.stream(outgoing, { signal })[Symbol.asyncIterator]();
  await received.next(); // the acknowledgement, empty
  return {
    id,
    send: (message) => outgoing.push(message),
    end: () => outgoing.end(),
    received: { [Symbol.asyncIterator]: () => received },
  };
}

/** Calls back for each progress message until the stream ends. Never throws: progress is no reason to fail. */
export async function watchProgress(stream: Stream, onProgress: (progress: Progress) => void): Promise<void> {
  try {
    for await (const any of stream.received) {
      const progress = unpack(any, ProgressSchema);
      if (progress !== undefined) onProgress(progress);
    }
  } catch {
    // Ends with the transfer, whose own error tells why.
  }
}

/** Unpack for this machine. */
export const unpackHere = {
  platform: { os: "linux", architecture },
  snapshotter: SNAPSHOTTER,
} satisfies Parameters<typeof create<typeof UnpackConfigurationSchema>>[1];

/** Messages to be sent, as they come. */
class Outgoing implements AsyncIterable<Any> {
  readonly #messages: Any[] = [];
  #ended = false;
  #wake: () => void = () => undefined;

  push(message: Any): void {
    this.#messages.push(message);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Any> {
    for (;;) {
      const next = this.#messages.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
