import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type MachineUpdates, MachineUpdatesSchema, UpdateService } from "@capsule/api";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import type { Updates } from "../update/updates.ts";
import { limitsOf, updateService } from "./update.ts";

const minutes = (count: number) => durationFromMs(count * 60_000);

test("limits of a trial: what can be kept, and what is told else", () => {
  assert.deepEqual(limitsOf(undefined, undefined), { autoConfirmMs: undefined, confirmWithinMs: 900_000 });
  assert.deepEqual(limitsOf(minutes(2), minutes(25)), { autoConfirmMs: 120_000, confirmWithinMs: 1_500_000 });
  assert.deepEqual(limitsOf(minutes(0), minutes(1)), { autoConfirmMs: 0, confirmWithinMs: 60_000 });
  for (const within of [0, 0.9, 26, -5]) assert.throws(() => limitsOf(undefined, minutes(within)), /1 to 25 minutes/);
  for (const auto of [-1, 14.6, 15, 100]) assert.throws(() => limitsOf(minutes(auto), undefined), /autoConfirm/);
});

/** What a push asks of the slots, and what it answers. */
async function pushed(asked: object, defaults: MachineUpdates | undefined) {
  const taken: unknown[] = [];
  const push: Pick<Updates, "push"> = {
    push: async ({ autoConfirmMs, confirmWithinMs }) => {
      taken.push(autoConfirmMs, confirmWithinMs);
      return { version: "2", slot: "b" } as Awaited<ReturnType<Updates["push"]>>;
    },
  };
  const service = updateService({
    slots: { updates: push as Updates },
    uptimeMs: () => 0,
    reboot: async () => undefined,
    defaults: () => defaults,
  });
  const client = createClient(
    UpdateService,
    createRouterTransport(({ service: add }) => void add(UpdateService, service)),
  );
  const start = { case: "start" as const, value: { noReboot: true, ...asked } };
  const { autoConfirm } = await client.pushUpdate(
    (async function* () {
      yield { input: start };
    })(),
  );
  return [...taken, autoConfirm];
}

test("a push that does not say how long is as the machine's document says, and tells so", async () => {
  const policy = create(MachineUpdatesSchema, { autoConfirm: minutes(2), confirmWithin: minutes(10) });
  assert.deepEqual(await pushed({}, undefined), [undefined, 900_000, undefined]);
  assert.deepEqual(await pushed({}, policy), [120_000, 600_000, minutes(2)]);
  assert.deepEqual(await pushed({ autoConfirm: minutes(1) }, policy), [60_000, 600_000, minutes(1)]);
  assert.deepEqual(await pushed({ confirmWithin: minutes(20) }, policy), [120_000, 1_200_000, minutes(2)]);
});
