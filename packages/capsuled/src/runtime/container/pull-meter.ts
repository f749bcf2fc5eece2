import type { Progress } from "../../gen/containerd/github.com/containerd/containerd/api/types/transfer/progress_pb.js";
import type { PullProgress } from "../images.ts";

/** Sums the progress of a transfer's parts: containerd tells it blob by blob. */
export class PullMeter {
  readonly #parts = new Map<string, { done: bigint; total: bigint }>();
  #step = "resolving";

  add({ event, name, progress, total }: Pick<Progress, "event" | "name" | "progress" | "total">): PullProgress {
    if (event === "waiting" || event === "downloading" || event === "complete") {
      const before = this.#parts.get(name);
      const all = total > 0n ? total : (before?.total ?? 0n);
      this.#parts.set(name, { done: event === "complete" ? all : progress, total: all });
      this.#step = "fetching";
    } else if (event === "extracting" || event === "unpacking") this.#step = "unpacking";
    let doneBytes = 0n;
    let totalBytes = 0n;
    for (const part of this.#parts.values()) {
      doneBytes += part.done;
      totalBytes += part.total;
    }
    const allDone = totalBytes > 0n && doneBytes >= totalBytes;
    return { doneBytes, totalBytes, step: allDone ? "unpacking" : this.#step };
  }
}
