/** The dashboard itself: feeds change the model, keys change the model, and the model is painted. */
import type { Key } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { ClientKey } from "../config.ts";
import { Feed, type Target } from "./feed.ts";
import { actionOf } from "./keys.ts";
import { isTooSmall, layout, panelRows } from "./layout.ts";
import { followLog } from "./log-feed.ts";
import { type Model, newModel } from "./model.ts";
import { isComplete, snapshot } from "./snapshot.ts";
import { lookOf, Terminal } from "./terminal.ts";
import { type Message, update, wantedLog } from "./update.ts";

/** A change is on the screen after so long, however many there are. */
const paintMs = 100;
/** Whoever passes over workloads does not want the log of each. */
const settleMs = 150;
/** A capsule that neither answers nor breaks the connection. */
const snapshotLimitMs = 20_000;

/** Shows the capsules until a key ends it. `shown` is the index of the first to be seen. */
export async function live(targets: readonly Target[], key: ClientKey | undefined, shown: number): Promise<void> {
  const terminal = new Terminal(lookOf(process.env));
  const stop = new AbortController();
  let model: Model = { ...newModel(targets.map(nameOf)), shown };
  let painting: NodeJS.Timeout | undefined;
  const paint = (): void => {
    painting = undefined;
    terminal.paint(layout(model, terminal.size, Date.now()));
  };
  const log = new LogFollower((message) => apply(message));
  const apply = (message: Message): void => {
    model = update(model, message);
    log.want(wantedLog(model), feeds);
    painting ??= setTimeout(paint, paintMs);
  };
  const feeds = feedsOf(targets, key, apply);
  await new Promise<void>((resolve) => {
    const onKey = (pressed: Key): void => {
      const { size } = terminal;
      const action = actionOf(pressed, model, panelRows(model, size));
      if (action === "quit") resolve();
      else if (action === "redraw") terminal.redraw();
      else if (action !== undefined && !isTooSmall(size)) apply(action);
      paint();
    };
    terminal.enter({ key: onKey, resize: paint, end: resolve });
    paint();
    const seconds = setInterval(() => apply({ kind: "second" }), 1_000);
    stop.signal.addEventListener("abort", () => clearInterval(seconds));
    for (const feed of feeds) void feed.run(stop.signal);
  }).finally(() => {
    terminal.leave();
    clearTimeout(painting);
    log.stop();
    stop.abort();
  });
}

/** The model after one look at each capsule, as text, and whether all could be reached. */
export async function once(targets: readonly Target[], key: ClientKey | undefined) {
  const stop = new AbortController();
  let model = newModel(targets.map(nameOf));
  await new Promise<void>((resolve) => {
    const feeds = feedsOf(targets, key, (message) => {
      model = update(model, message);
      if (isComplete(model)) resolve();
    });
    void sleep(snapshotLimitMs, undefined, { signal: stop.signal }).then(resolve, () => undefined);
    for (const feed of feeds) void feed.run(stop.signal);
  });
  stop.abort();
  const isWhole = model.capsules.every(({ link }) => link.state === "up") && isComplete(model);
  return { lines: snapshot(model, Date.now()), isWhole };
}

function feedsOf(targets: readonly Target[], key: ClientKey | undefined, apply: (message: Message) => void): Feed[] {
  return targets.map((target, capsule) => {
    return new Feed(target, key, (of) => {
      try {
        apply({ kind: "feed", capsule, of, at: Date.now() });
      } catch (error) {
        // A fault of ours would be shown as one of the connection, again and again: it ends the program.
        queueMicrotask(() => {
          throw error;
        });
      }
    });
  });
}

function nameOf({ name, context }: Target): { name: string; host: string } {
  return { name, host: context.host };
}

/** Follows the log that is wanted, and no other. */
class LogFollower {
  readonly #apply: (message: Message) => void;
  #wanted: ReturnType<typeof wantedLog>;
  #stop = new AbortController();

  constructor(apply: (message: Message) => void) {
    this.#apply = apply;
  }

  want(wanted: ReturnType<typeof wantedLog>, feeds: readonly Feed[]): void {
    if (wanted?.capsule === this.#wanted?.capsule && wanted?.workload === this.#wanted?.workload) return;
    this.stop();
    this.#wanted = wanted;
    if (wanted === undefined) return;
    const { signal } = this.#stop;
    const { capsule, workload } = wanted;
    const apply = this.#apply;
    void sleep(settleMs, undefined, { signal })
      .then(() =>
        followLog(
          workload,
          () => feeds[capsule]?.capsule,
          (of) => apply({ kind: "logs", capsule, workload, of }),
          signal,
        ),
      )
      // Another one was wanted before it began.
      .catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
  }

  stop(): void {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#wanted = undefined;
  }
}
