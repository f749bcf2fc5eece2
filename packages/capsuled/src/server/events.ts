/** Events as calls give them: those of a workload, of the capsule itself, of everything. */
import { create } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema } from "@capsule/api";
import type { EventRecord, EventSelection } from "../store/events.ts";
import type { Store } from "../store/store.ts";
import { changesOf } from "./changes.ts";

const defaultLimit = 100;
const mostEvents = 10_000;

export interface EventsWanted {
  readonly follow: boolean;
  /** 0: 100. */
  readonly limit: number;
  readonly since?: Timestamp | undefined;
}

/** The newest first, in one message, when there are some; then, with `follow`, each as it happens. */
export async function* eventsOf(
  store: Store,
  of: Pick<EventSelection, "kinds" | "name">,
  { follow, limit, since }: EventsWanted,
  signal: AbortSignal,
): AsyncGenerator<{ events: Event[] }> {
  const changes = follow ? changesOf(store, signal, ({ kind }) => kind === "event") : undefined;
  const selection = { ...of, ...(since === undefined ? {} : { since: timestampDate(since) }) };
  const known = store.events.newest(limit === 0 ? defaultLimit : Math.min(limit, mostEvents), selection);
  let last = known.at(-1)?.sequence ?? 0;
  if (known.length > 0) yield { events: known.map(messageOfEvent) };
  if (changes === undefined) return;
  for await (const change of changes) {
    if (change.kind !== "event" || change.sequence <= last) continue;
    last = change.sequence;
    const event = store.events.get(change.sequence);
    if (event !== undefined && isOf(event, of)) yield { events: [messageOfEvent(event)] };
  }
}

function isOf({ objectKind, objectName }: EventRecord, { kinds, name }: EventSelection): boolean {
  return (kinds === undefined || kinds.includes(objectKind)) && (name === undefined || name === objectName);
}

function messageOfEvent({ sequence, time, ...event }: EventRecord): Event {
  return create(EventSchema, { ...event, sequence: BigInt(sequence), time: timestampFromDate(time) });
}
