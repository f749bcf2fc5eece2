/** Reboots and power cuts at random moments during writes: whatever was acknowledged is there afterwards. ROUNDS=n, SEED=n. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { Random } from "../support/random.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["ROUNDS"] ?? 2);
const random = new Random(seed);

let capsule: TestCapsule;
let host: QemuHost;
before(async () => {
  console.log(`SEED=${seed}`);
  capsule = await TestCapsule.startMachine("persist", ["busybox"]);
  assert.ok(capsule.host instanceof QemuHost);
  host = capsule.host;
});
after(async () => await capsule?.stop());

const sleeper = (name: string, env = ""): string =>
  `kind: Container\nname: ${name}\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s${env}}\n`;
const note = (count: number): string => sleeper("note", `, env: [{name: COUNT, value: "${count}"}]`);

async function countOf(): Promise<number> {
  const { spec } = (await capsule.workload("note")) as unknown as {
    spec: { container: { env: { value: string }[] } };
  };
  return Number(spec.container.env[0]?.value);
}

test(`${rounds} reboots and power cuts`, { timeout: rounds * 400_000 }, async () => {
  assert.equal((await capsule.apply(sleeper("runs"), "--wait=60s")).code, 0);
  assert.equal((await capsule.apply(note(0), "--wait=60s")).code, 0);
  await capsule.ctl(["workload", "stop", "note", "--wait"]);
  const { fingerprint } = capsule;
  let acknowledged = 0;
  let attempted = 0;
  for (let round = 0; round < rounds; round++) {
    const isCut = round % 2 === 0;
    const boot = await host.bootId();
    const end = Date.now() + 500 + random.below(5_000);
    let down = false;
    const writing = (async () => {
      while (!down) {
        attempted++;
        const { code } = await capsule.apply(note(attempted));
        if (code === 0) acknowledged = attempted;
        else if (!down) await sleep(50);
      }
    })();
    await sleep(end - Date.now());
    if (isCut) await host.cutPower();
    else await capsule.ctl(["capsule", "reboot", "--yes"]);
    down = true;
    await writing;
    if (isCut) await host.startAgain();
    else await host.untilRebooted(boot);
    await capsule.untilServing();
    assert.equal(capsule.fingerprint, fingerprint, "the same identity");
    const count = await countOf();
    assert.ok(count >= acknowledged && count <= attempted, `round ${round}: ${count}, acknowledged ${acknowledged}`);
    assert.equal((await capsule.workload("note")).desired, "RUN_STATE_STOPPED", "stopped stays stopped");
    await capsule.until("runs", ({ status }) => status.phase === "PHASE_RUNNING", "running again", 90_000);
  }
  console.log(`${acknowledged} writes were acknowledged`);
  assert.ok(acknowledged >= rounds, "the writes were under way");
  assert.doesNotMatch(host.machine.console(), /degraded|Kernel panic/);
});
