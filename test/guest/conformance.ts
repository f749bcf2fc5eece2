/** What every backend promises to the guest of a machine: an agent that is reached, its disks in their order, its interface. */
import assert from "node:assert/strict";
import { PassThrough, Readable } from "node:stream";
import { afterEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { GuestState } from "@capsule/api/gen/capsule/v1/guest_pb.js";
import { type Agent, dialAgent } from "../../packages/capsuled/src/runtime/microvm/agent.ts";
import type {
  BackendUnderTest,
  MachineUnderTest,
} from "../../packages/capsuled/src/runtime/microvm/backends/conformance-machine.test-support.ts";
import { configOf } from "./config.ts";
import { exec } from "./exec.ts";

const MiB = 1024 ** 2;
const bootMs = 120_000;

export interface GuestUnderTest extends MachineUnderTest {
  /** How its monitor ended, as its jail has noted it: such as `exit 0`. */
  ended(): Promise<string>;
}

export interface GuestBackendUnderTest extends BackendUnderTest {
  /**
   * Its first disk is a root with busybox; the second one is given read-only, and is a volume with the file `sub/dir/file` with
   * "content". It has an interface.
   */
  start(isRestored: boolean): Promise<GuestUnderTest>;
}

export function conformsInGuests(title: string, subject: () => GuestBackendUnderTest): void {
  let started: GuestUnderTest[] = [];
  let agents: Agent[] = [];
  const start = async (isRestored = false): Promise<GuestUnderTest> => {
    const machine = await subject().start(isRestored);
    started.push(machine);
    return machine;
  };
  const dial = async ({ paths }: GuestUnderTest): Promise<Agent> => {
    const deadline = Date.now() + bootMs;
    for (;;) {
      const agent = await dialAgent(paths.agent, subject().backend.agentPort);
      if (agent !== undefined) {
        agents.push(agent);
        return agent;
      }
      if (Date.now() > deadline) throw new Error(`the agent does not answer within ${bootMs} ms`);
      await sleep(100);
    }
  };
  const startPayload = async ({ client }: Agent, isVolumeReadOnly: boolean): Promise<unknown> =>
    await client.startPayload({
      now: { seconds: BigInt(Math.floor(Date.now() / 1_000)), nanos: 0 },
      hostname: "guest",
      network: { ipv4: "10.231.0.2/24", gateway4: "10.231.0.1", ipv6: "fd00::5/64", gateway6: "fd00::1", mtu: 0 },
      disks: [{}, { readOnly: isVolumeReadOnly, subPaths: ["sub/dir"] }],
      files: [Buffer.from("a file")],
      ociConfig: configOf(["sleep", "1000"], 48 * MiB, true),
    });

  describe(`a guest of ${title}`, { timeout: 600_000 }, () => {
    afterEach(async () => {
      for (const agent of agents) agent.close();
      for (const machine of started) await machine.kill();
      agents = [];
      started = [];
    });

    test("has its disks in their order and its interface, goes on where it was saved, and powers off", async () => {
      const machine = await start();
      const agent = await dial(machine);
      await startPayload(agent, true);
      const seen = await exec(agent, [
        "sh",
        "-c",
        "cat /data/file; echo x >/data/file; ip link show eth0; echo mine >/tmp/x",
      ]);
      assert.match(seen.stdout, /^content\n/);
      assert.match(seen.stdout, /link\/ether 02:00:00:00:00:01/);
      assert.match(seen.stderr, /Read-only file system/);
      const chunks: Buffer[] = [];
      const to = new PassThrough().on("data", (chunk: Buffer) => chunks.push(chunk));
      const { states } = subject().backend;
      assert.ok(states !== undefined);
      // It ends where it stands still, with its disks: it cannot go on then, which is told.
      await assert.rejects(states.save(machine.paths, to, async () => await machine.kill(), subject().machine));
      const copy = await start(true);
      await states.restore(copy.paths, Readable.from(chunks), subject().machine);
      const there = await dial(copy);
      assert.equal((await exec(there, ["cat", "/tmp/x", "/data/file"])).stdout, "mine\ncontent\n");
      assert.deepEqual((await there.client.powerOff({})).faults, []);
      assert.equal(await copy.ended(), "exit 0");
    });

    test("cannot write to a disk that is read-only, whatever it is told", async () => {
      const agent = await dial(await start());
      await assert.rejects(startPayload(agent, false), /volume 0 cannot be mounted: (EACCES|EROFS)/);
      for await (const { state } of agent.client.watchState({})) {
        assert.notEqual(state, GuestState.RUNNING);
        break;
      }
    });
  });
}
