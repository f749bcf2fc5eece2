import assert from "node:assert/strict";
import { test } from "node:test";
import { Phase } from "@capsule/api";
import { after, aModel, feed, info, now, two, usage, workload } from "./model.test-support.ts";
import { newModel } from "./model.ts";
import { isComplete, snapshot } from "./snapshot.ts";

test("everything once, as text", () => {
  assert.deepEqual(snapshot(aModel(), now), [
    "nuc-1  192.0.2.1:50000  up  nuc 1.2.3 (machine)  up 1d2h",
    "CPU:      30% of 2, load 0.50",
    "Memory:   2.0 GiB of 8.0 GiB",
    "Pool:     default 40.0 GiB of 100 GiB",
    "Network:  2.0 KiB/s in, 0 B/s out",
    "Workloads:",
    " WORKLOAD  PHASE    CPU    MEMORY               RESTARTS  AGE   MESSAGE",
    " db        FAILED   -      -                    3         1h1m  The image registry.example/db:1 was not found",
    " web       RUNNING  12.5%  48.0 MiB of 256 MiB  0         1h1m  Running",
    "Events:",
    "    1m0s web Started: Started",
    "    1m0s db Started: pull access denied",
    "",
    "nuc-2  192.0.2.2:50000  UNREACHABLE: connect ECONNREFUSED",
  ]);
});

test("is complete when each capsule has told all, or cannot be reached", () => {
  const model = aModel();
  assert.equal(isComplete(newModel(two)), false);
  assert.equal(isComplete(model), false, "one sample of the workloads has no use of the processor");
  assert.equal(isComplete(after(model, usage("web", 1, 1))), true);
  assert.equal(isComplete(after(model, usage("web", 1, 1), feed({ kind: "up" }, 1))), false);
});

test("nothing in it steers a terminal", () => {
  const evil = "\u001b[2J\u009b1m\u202e\n\r";
  const model = after(aModel(), workload(`w${evil}`, Phase.FAILED, evil), info(evil));
  for (const line of snapshot(model, now)) assert.doesNotMatch(line, /[\p{Cc}\p{Cf}]/u);
});
