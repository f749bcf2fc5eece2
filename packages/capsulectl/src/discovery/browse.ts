/**
 * Looks for capsules by multicast DNS on all links of this machine. A file of its own beside the program (scripts/bundle.ts),
 * with its library: most commands never look.
 */
import { type Link, readLinks, sameLink } from "@capsule/api/mdns/links.ts";
import { LinkSocket } from "@capsule/api/mdns/socket.ts";
import { Cache, type Sighting } from "./cache.ts";
import { questionPackets } from "./question.ts";

export interface BrowseOptions {
  readonly signal: AbortSignal;
  /** Called with all that is known whenever that may have changed. */
  readonly onChange: (sightings: readonly Sighting[]) => void;
  /** A link on which it cannot be looked, and why. */
  readonly onFailed: (link: string, error: Error) => void;
}

// In milliseconds. The first question is repeated soon, in case it was lost; then ever more seldom (RFC 6762, section 5.2).
const firstPauseMs = 1_000;
const longestPauseMs = 60 * 60_000;
/** How often links are looked at, and what has expired. */
const lookMs = 1_000;

interface Listening {
  readonly link: Link;
  readonly socket: LinkSocket | undefined;
}

/** Looks until the signal comes. Throws when this machine has no link to look on. */
export async function browse({ signal, onChange, onFailed }: BrowseOptions): Promise<void> {
  const cache = new Cache();
  const listening = new Map<string, Listening>();
  let told = "";
  const tell = (): void => {
    cache.expire(performance.now());
    const sightings = cache.sightings();
    const text = JSON.stringify(sightings);
    if (text === told) return;
    told = text;
    onChange(sightings);
  };
  const ask = async ({ link, socket }: Listening): Promise<void> => {
    for (const packet of questionPackets(cache.known(link.name, performance.now()))) await socket?.multicast(packet);
  };
  const listen = async (link: Link): Promise<void> => {
    const failed = (error: Error): void => {
      const listener = listening.get(link.name);
      if (listener?.link !== link) return;
      listener.socket?.close();
      // Silent, until the link changes.
      listening.set(link.name, { link, socket: undefined });
      onFailed(link.name, error);
    };
    listening.set(link.name, { link, socket: undefined });
    try {
      const socket = await LinkSocket.open(link, {
        onPacket: (packet) => {
          if (packet.type !== "response") return;
          cache.hear(link.name, [...(packet.answers ?? []), ...(packet.additionals ?? [])], performance.now());
          tell();
        },
        onError: failed,
      });
      if (signal.aborted) return socket.close();
      listening.set(link.name, { link, socket });
    } catch (error) {
      failed(error instanceof Error ? error : new Error(String(error)));
    }
  };
  /** Follows the links; true when there are others than before. */
  const follow = async (): Promise<boolean> => {
    const links = new Map(readLinks().map((link) => [link.name, link]));
    let changed = false;
    for (const [name, { link, socket }] of listening) {
      const now = links.get(name);
      if (now !== undefined && sameLink(now, link)) continue;
      socket?.close();
      listening.delete(name);
      if (now === undefined) cache.forget(name);
    }
    for (const link of links.values()) {
      if (listening.has(link.name)) continue;
      changed = true;
      await listen(link);
    }
    return changed;
  };

  await follow();
  if (listening.size === 0) throw new Error("this machine has no network to look on: no link is up but loopback");
  try {
    let pauseMs = firstPauseMs;
    let nextMs = 0;
    while (!signal.aborted) {
      if (await follow()) [pauseMs, nextMs] = [firstPauseMs, 0];
      const now = performance.now();
      if (now >= nextMs) {
        await Promise.all([...listening.values()].map(ask));
        // What is known and about to expire is asked for, also when the next question would be later.
        nextMs = Math.min(now + pauseMs, cache.nextDueMs(now));
        pauseMs = Math.min(pauseMs * 2, longestPauseMs);
      } else nextMs = Math.min(nextMs, cache.nextDueMs(now));
      tell();
      await pause(lookMs, signal);
    }
  } finally {
    for (const { socket } of listening.values()) socket?.close();
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
