/** What a capsule tells, for as long as the dashboard is open: a connection, made again whenever it is lost. */
import { setTimeout as sleep } from "node:timers/promises";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type { ClientKey, Context } from "../config.ts";
import { Clock, connect } from "../connection.ts";
import { CliError } from "../errors.ts";
import { isConnectionLoss, toCliError } from "../rpc-errors.ts";
import { type Capsule, capsuleOf, followTime } from "../session.ts";
import type { FeedMessage } from "./feed-update.ts";

/** A capsule samples itself so often, for us. */
const machineEveryMs = 1_000;
/** A look at every control group. */
const usageEveryMs = 2_000;
/** Pools and warnings change slowly, and cost more than a look. */
const infoEveryMs = 5_000;
const eventsAtFirst = 100;
const firstWaitMs = 1_000;
const longestWaitMs = 10_000;
/** A connection that stood so long was a good one: the next try comes soon. */
const goodMs = 10_000;
/** A capsule that vanished from the network is noticed in the sum of the two. */
const ping = { intervalMs: 5_000, timeoutMs: 10_000 };

export interface Target {
  readonly name: string;
  readonly context: Context;
}

export class Feed {
  readonly #target: Target;
  readonly #key: ClientKey | undefined;
  readonly #send: (message: FeedMessage) => void;
  readonly #clock = new Clock();
  #capsule: Capsule | undefined;

  constructor(target: Target, key: ClientKey | undefined, send: (message: FeedMessage) => void) {
    this.#target = target;
    this.#key = key;
    this.#send = send;
  }

  /** While it is connected. */
  get capsule(): Capsule | undefined {
    return this.#capsule;
  }

  /** Until the signal; never throws for anything that a capsule or a network does. */
  async run(signal: AbortSignal): Promise<void> {
    for (let waitMs = firstWaitMs; !signal.aborted; waitMs = Math.min(waitMs * 2, longestWaitMs)) {
      this.#send({ kind: "connecting" });
      const startedAt = Date.now();
      const error = await this.#connected(signal).catch((error: unknown) => error);
      if (signal.aborted) return;
      if (Date.now() - startedAt > goodMs) waitMs = firstWaitMs;
      const reason = reasonOf(error, this.#target.context.host);
      this.#send({ kind: "down", reason, retryAt: Date.now() + waitMs });
      await sleep(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Ends by the error that ended the connection. */
  async #connected(signal: AbortSignal): Promise<never> {
    const { host, fingerprint, capsuleId } = this.#target.context;
    const connection = await connect({ host, key: this.#key, fingerprint, ping, signal, clock: this.#clock });
    const ended = new AbortController();
    try {
      const capsule = capsuleOf(this.#target.name, connection);
      followTime((await capsule.identity.getIdentity({}, { signal })).time, (time) => this.#clock.follow(time));
      connection.authenticate(capsuleId);
      this.#send({ kind: "up" });
      this.#capsule = capsule;
      const both = AbortSignal.any([signal, ended.signal]);
      const streams = [
        this.#machine(capsule, both),
        this.#workloads(capsule, both),
        this.#usage(capsule, both),
        this.#events(capsule, both),
        this.#info(capsule, both),
      ];
      // Each of them ends with the connection: the first to say so says why.
      await Promise.race(streams).finally(() => {
        ended.abort();
        return Promise.allSettled(streams);
      });
      throw new CliError("the capsule ended the call");
    } finally {
      this.#capsule = undefined;
      connection.close();
    }
  }

  async #machine({ capsule }: Capsule, signal: AbortSignal): Promise<void> {
    const interval = durationFromMs(machineEveryMs);
    for await (const stats of capsule.systemStats({ interval }, { signal })) this.#send({ kind: "machine", stats });
  }

  async #workloads({ workloads }: Capsule, signal: AbortSignal): Promise<void> {
    for await (const { change } of workloads.watchWorkloads({}, { signal })) {
      if (change.case === "workload") this.#send({ kind: "workload", workload: change.value });
      else if (change.case === "deleted") this.#send({ kind: "gone", name: change.value });
      else if (change.case === "synced") this.#send({ kind: "synced" });
    }
  }

  async #usage({ workloads }: Capsule, signal: AbortSignal): Promise<void> {
    const interval = durationFromMs(usageEveryMs);
    for await (const answer of workloads.stats({ interval }, { signal }))
      this.#send({ kind: "usage", usage: answer.workloads });
  }

  async #events({ workloads }: Capsule, signal: AbortSignal): Promise<void> {
    for await (const { events } of workloads.events({ follow: true, limit: eventsAtFirst }, { signal }))
      this.#send({ kind: "events", events });
  }

  async #info({ capsule }: Capsule, signal: AbortSignal): Promise<void> {
    for (;;) {
      this.#send({ kind: "info", info: await capsule.getInfo({}, { signal }) });
      await sleep(infoEveryMs, undefined, { signal });
    }
  }
}

/** Short, for it stands behind the capsule's host on one line. */
export function reasonOf(error: unknown, host: string): string {
  if (isConnectionLoss(error)) return "the connection was lost";
  const shown = toCliError(error, host);
  const { cause } = shown;
  // What the network said, without what is around it for other verbs.
  const isNetworks = shown instanceof CliError && cause instanceof Error && !(cause instanceof ConnectError);
  const text = isNetworks ? cause.message : shown.message;
  return text.replaceAll(` ${host}`, "");
}
