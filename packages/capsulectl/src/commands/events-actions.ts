/** Events, of workloads and of the capsule itself. */
import { create, toJson } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { type Event, type EventsResponse, EventsResponseSchema, EventType } from "@capsule/api";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { age, type Column, type Format, print, say, sayJson } from "../output.ts";
import { withCapsule } from "../session.ts";
import { sinceOf } from "./logs-actions.ts";

export interface EventsOptions {
  readonly follow?: boolean;
  readonly limit: string;
  readonly since?: string;
}

interface EventsWanted {
  readonly follow: boolean;
  readonly limit: number;
  readonly since?: Timestamp;
}

export const eventColumns: Column<Event>[] = [
  { title: "AGE", value: ({ time }) => age(time), right: true },
  { title: "TYPE", value: ({ type }) => (type === EventType.WARNING ? "Warning" : "Normal") },
  { title: "REASON", value: ({ reason }) => reason },
  { title: "MESSAGE", value: ({ message, count }) => (count > 1 ? `${message} (${count} times)` : message) },
];

/** What happened to the capsule itself. */
export async function capsuleEvents({ capsule: chosen, format }: Globals, options: EventsOptions): Promise<void> {
  const wanted = eventsWanted(options);
  await withCapsule(chosen, ({ capsule }) => showEvents(format, wanted, capsule.systemEvents(wanted)));
}

/** Throws CliError for what cannot be meant. */
export function eventsWanted({ follow, limit, since }: EventsOptions): EventsWanted {
  const count = Number(limit);
  if (!Number.isInteger(count) || count < 1)
    throw new CliError(`--limit ${limit}: a number from 1 is needed`, exitCode.usage);
  return { follow: follow === true, limit: count, ...sinceOf(since) };
}

/** A table, or a line each for those who follow. */
export async function showEvents(
  format: Format,
  { follow }: EventsWanted,
  responses: AsyncIterable<EventsResponse>,
): Promise<void> {
  const all: Event[] = [];
  for await (const response of responses) {
    if (!follow) all.push(...response.events);
    else if (format === "json") sayJson(toJson(EventsResponseSchema, response));
    else
      for (const event of response.events)
        say(`${timeText(event)} ${event.objectName || event.objectKind} ${event.reason}: ${event.message}`);
  }
  if (follow) return;
  const object = {
    title: "OBJECT",
    value: ({ objectKind, objectName }: Event) => (objectName === "" ? objectKind : `${objectKind}/${objectName}`),
  };
  await print(format, EventsResponseSchema, create(EventsResponseSchema, { events: all }), all, [
    ...eventColumns.slice(0, 1),
    object,
    ...eventColumns.slice(1),
  ]);
}

function timeText({ time }: Event): string {
  return time === undefined ? "-" : timestampDate(time).toISOString();
}
