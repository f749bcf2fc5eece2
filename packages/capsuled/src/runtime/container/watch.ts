import type { Logger } from "pino";
import {
  TaskExitSchema,
  TaskOOMSchema,
  TaskStartSchema,
} from "../../gen/containerd/github.com/containerd/containerd/api/events/task_pb.js";
import { type Containerd, NAMESPACE, unpack } from "./client.ts";

const firstRetryMs = 100;
const maxRetryMs = 5_000;

/**
 * Calls back with the container's id when containerd tells that its task started or ended. Subscribes again, for ever,
 * when containerd restarts; what happened in between is for the caller's resync.
 */
export function watchTasks(client: Containerd, listener: (id: string) => void, log: Logger): void {
  void (async () => {
    for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, maxRetryMs)) {
      try {
        const filters = [`namespace==${NAMESPACE},topic~="/tasks/"`];
        for await (const { event } of client.events.subscribe({ filters })) {
          retryMs = firstRetryMs;
          const exit = unpack(event, TaskExitSchema);
          // The end of an exec has an id of its own.
          if (exit !== undefined && exit.id !== exit.containerId) continue;
          const id = (exit ?? unpack(event, TaskStartSchema) ?? unpack(event, TaskOOMSchema))?.containerId;
          if (id !== undefined) listener(id);
        }
      } catch (error) {
        log.debug({ err: error }, "containerd's events ended; subscribing again");
      }
      await new Promise((resolve) => setTimeout(resolve, retryMs).unref());
    }
  })();
}
