import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { EventType } from "@capsule/api";
import type { EventRecord, EventSelection } from "../store/events.ts";
import { Store } from "../store/store.ts";
import { type EventsWanted, eventsOf } from "./events.ts";

let dir: string;
let store: Store;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-events-"));
  store = new Store(join(dir, "state.db"));
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true });
});

function add(objectKind: EventRecord["objectKind"], objectName: string, message: string, time = 1_000): void {
  store.events.add({ objectKind, objectName, type: EventType.NORMAL, reason: "R", message, time: new Date(time) });
}

async function messages(of: EventSelection, wanted: Partial<EventsWanted> = {}): Promise<string[]> {
  const seen: string[] = [];
  const all = { follow: false, limit: 0, ...wanted };
  for await (const { events } of eventsOf(store, of, all, new AbortController().signal))
    seen.push(...events.map(({ message }) => message));
  return seen;
}

test("those of a kind and a name, the newest so many, none that is older", async () => {
  add("workload", "same", "a");
  add("volume", "same", "b");
  add("capsule", "box", "c", 2_000);
  add("pool", "default", "d", 3_000);
  add("capsule", "renamed", "e", 4_000);
  assert.deepEqual(await messages({}), ["a", "b", "c", "d", "e"]);
  assert.deepEqual(await messages({ kinds: ["workload"], name: "same" }), ["a"]);
  const own = { kinds: ["capsule", "pool"] } as const;
  assert.deepEqual(await messages(own), ["c", "d", "e"]);
  assert.deepEqual(await messages(own, { limit: 2 }), ["d", "e"]);
  assert.deepEqual(await messages(own, { since: timestampFromDate(new Date(3_000)) }), ["d", "e"]);
  assert.deepEqual(await messages(own, { since: timestampFromDate(new Date(5_000)) }), []);
});

test("followed, they come as they happen, and no others", async () => {
  const own = { kinds: ["workload"], name: "web" } as const;
  add("workload", "web", "before");
  const following = eventsOf(store, own, { follow: true, limit: 0 }, new AbortController().signal);
  const next = async (): Promise<string | undefined> => {
    const { value } = await following.next();
    return (value as { events: { message: string }[] } | undefined)?.events[0]?.message;
  };
  assert.equal(await next(), "before");
  const coming = next();
  // Of another kind with the same name, and of another name.
  add("volume", "web", "no");
  add("workload", "db", "no");
  add("workload", "web", "yes");
  assert.equal(await coming, "yes");
  await following.return(undefined);
});
