/**
 * What every backend promises of a machine that runs: how it is asked to end, and how it is saved and restored. Nothing here
 * knows what happens in the guest.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { PassThrough, Readable, Writable } from "node:stream";
import { afterEach, describe, test } from "node:test";
import type { RunPaths } from "../layout.ts";
import type { MachineStates, MicroVmBackend, SavedMachine } from "./backend.ts";

export type MachineState = "runs" | "stands still" | "waits";

export interface MachineUnderTest {
  readonly paths: RunPaths;
  /** As its monitor tells: it runs, stands still with all that it has, or waits for the state that it goes on from. */
  state(): Promise<MachineState>;
  /** Ends its monitor at once. */
  kill(): Promise<void>;
}

export interface BackendUnderTest {
  readonly backend: MicroVmBackend;
  /** What all its machines are started with. */
  readonly machine: SavedMachine;
  /** Starts the monitor of a machine; resolves when its ready socket is there. */
  start(isRestored: boolean): Promise<MachineUnderTest>;
}

/** `subject`: asked for in each test. `title`: what it is tried with. */
export function conformsInMachines(title: string, subject: () => BackendUnderTest): void {
  let started: MachineUnderTest[] = [];
  const start = async (isRestored = false): Promise<MachineUnderTest> => {
    const machine = await subject().start(isRestored);
    started.push(machine);
    return machine;
  };
  const states = (): MachineStates => {
    const { states: found } = subject().backend;
    assert.ok(found !== undefined, "its machines cannot be saved");
    return found;
  };
  const saved = async ({ paths }: MachineUnderTest, atRest = async (): Promise<void> => undefined): Promise<Buffer> => {
    const chunks: Buffer[] = [];
    const to = new PassThrough().on("data", (chunk: Buffer) => chunks.push(chunk));
    await states().save(paths, to, atRest, subject().machine);
    assert.ok(to.writableFinished);
    return Buffer.concat(chunks);
  };
  const restore = async ({ paths }: MachineUnderTest, state: Buffer): Promise<void> => {
    const from = Readable.from([state]);
    try {
      await states().restore(paths, from, subject().machine);
    } finally {
      assert.ok(from.destroyed);
    }
  };
  const filesOf = async ({ paths }: MachineUnderTest): Promise<string[]> => (await readdir(paths.sockets)).sort();

  describe(`a machine of ${title}`, { timeout: 300_000 }, () => {
    afterEach(async () => {
      for (const machine of started) await machine.kill();
      started = [];
    });

    test("runs when its monitor listens, and its power button can be pressed", async () => {
      const machine = await start();
      assert.equal(await machine.state(), "runs");
      await subject().backend.pressPowerButton(machine.paths);
    });

    test("is told to be gone by whoever presses the button of none", async () => {
      const machine = await start();
      await machine.kill();
      await assert.rejects(subject().backend.pressPowerButton(machine.paths), /ENOENT|ECONNREFUSED/);
    });

    test("stands still while its disks are taken, goes on, and goes on elsewhere from its state", async () => {
      const machine = await start();
      const files = await filesOf(machine);
      let atRest: MachineState | undefined;
      const state = await saved(machine, async () => {
        atRest = await machine.state();
      });
      assert.equal(atRest, "stands still");
      assert.equal(await machine.state(), "runs");
      assert.deepEqual(await filesOf(machine), files);
      await machine.kill();
      const copy = await start(true);
      assert.equal(await copy.state(), "waits");
      await restore(copy, state);
      assert.equal(await copy.state(), "runs");
      // And it can be saved once more.
      assert.ok((await saved(copy)).length > 0);
    });

    test("goes on when its disks cannot be taken, and that is told", async () => {
      const machine = await start();
      const files = await filesOf(machine);
      const to = new PassThrough();
      to.resume();
      const noRoom = async (): Promise<void> => {
        throw new Error("no room for its disks");
      };
      await assert.rejects(states().save(machine.paths, to, noRoom, subject().machine), /no room for its disks/);
      assert.ok(to.destroyed);
      assert.equal(await machine.state(), "runs");
      assert.deepEqual(await filesOf(machine), files);
      // It is not kept from the next one.
      assert.ok((await saved(machine)).length > 0);
    });

    test("goes on when whoever takes its state goes away", async () => {
      const machine = await start();
      const files = await filesOf(machine);
      const to = new Writable({ write: (_chunk, _encoding, done) => done(new Error("the caller is gone")) });
      await assert.rejects(states().save(machine.paths, to, async () => undefined, subject().machine));
      assert.ok(to.destroyed);
      assert.equal(await machine.state(), "runs");
      assert.deepEqual(await filesOf(machine), files);
    });

    test("tells what went wrong first, and that it did not go on", async () => {
      const machine = await start();
      const noRoom = async (): Promise<void> => {
        await machine.kill();
        throw new Error("no room for its disks");
      };
      await assert.rejects(saved(machine, noRoom), /no room for its disks/);
      const other = await start();
      await assert.rejects(
        saved(other, async () => await other.kill()),
        /ENOENT|ECONNREFUSED/,
      );
    });

    test("cannot be saved when it is gone", async () => {
      const machine = await start();
      await machine.kill();
      let wasAtRest = false;
      const to = new PassThrough();
      to.on("error", () => undefined);
      const atRest = async (): Promise<void> => {
        wasAtRest = true;
      };
      await assert.rejects(states().save(machine.paths, to, atRest, subject().machine), /ENOENT|ECONNREFUSED/);
      assert.deepEqual([wasAtRest, to.destroyed], [false, true]);
    });

    test("takes no state while it runs", async () => {
      const machine = await start();
      const state = await saved(machine);
      await assert.rejects(restore(machine, state));
      assert.equal(await machine.state(), "runs");
    });

    test("does not run with what is no state, or half of one", async () => {
      const machine = await start();
      const state = await saved(machine);
      await machine.kill();
      for (const wrong of [
        Buffer.alloc(0),
        Buffer.from("no state at all".repeat(99)),
        state.subarray(0, state.length >> 1),
      ]) {
        const copy = await start(true);
        await assert.rejects(restore(copy, wrong), `${wrong.length} bytes`);
        // A monitor may end of it.
        assert.notEqual(await copy.state().catch(() => undefined), "runs");
        await copy.kill();
      }
    });
  });
}
