/** A program in a jail, started in a capsule as capsuled would start the monitor of a machine. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Program } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import type { TestCapsule } from "./test-capsule.ts";

export interface JailedOptions {
  /** Of its directory, /run/NAME, and its control group. */
  readonly name: string;
  readonly program: Program;
  /** User and group. */
  readonly user: number;
  /** Limit of its control group, in bytes; none when it is not said. */
  readonly memoryBytes?: number;
}

export class JailedProgram {
  readonly #capsule: TestCapsule;
  readonly #dir: string;
  readonly #cgroups: readonly string[];
  /** As the capsule sees it. */
  readonly pid: number;

  private constructor(capsule: TestCapsule, dir: string, cgroups: readonly string[], pid: number) {
    this.#capsule = capsule;
    this.#dir = dir;
    this.#cgroups = cgroups;
    this.pid = pid;
  }

  static async start(capsule: TestCapsule, options: JailedOptions): Promise<JailedProgram> {
    const { name, user, program, memoryBytes } = options;
    const { readySocket: _, files = [], ...what } = program;
    const sh = (script: string): Promise<string> => capsule.host.exec(["sh", "-c", script]);
    const dir = `/run/${name}`;
    await sh(`mkdir -p ${dir}/root/run && chown ${user}:${user} ${dir}/root/run`);
    for (const { at, content } of files)
      await capsule.host.exec(["sh", "-c", 'cat >"$0" && chmod 444 "$0"', `${dir}/root${at}`], content);
    // One hierarchy, or one for each controller.
    const groups = await sh(
      `for place in /sys/fs/cgroup /sys/fs/cgroup/*; do case $place in *cpuset*) continue;; esac; ` +
        `[ -e $place/cgroup.procs ] || continue; mkdir -p $place/${name}; echo $place/${name}; ` +
        `[ $place != /sys/fs/cgroup ] || break; done`,
    );
    const cgroups = groups.split("\n").filter((line) => line !== "");
    if (memoryBytes !== undefined)
      await sh(
        `for group in ${cgroups.join(" ")}; do for file in memory.limit_in_bytes memory.max; do ` +
          `[ ! -e $group/$file ] || echo ${memoryBytes} >$group/$file; done; done`,
      );
    const output = { dir, name: "said", maxBytes: 1024 ** 2, maxFiles: 2 };
    const jail = { filesPrefix: `${dir}/monitor`, root: `${dir}/root`, uid: user, gid: user, cgroups, output };
    await capsule.host.exec(["sh", "-c", `cat >${dir}/monitor.json`], JSON.stringify({ ...what, ...jail }));
    await sh(`echo go | /sbin/capsule-init jail ${dir}/monitor.json >${dir}/jail 2>&1 &`);
    const pid = await until(`the jail of ${name} starts`, async () => {
      const noted = await sh(`cat ${dir}/monitor.pid || { cat ${dir}/jail >&2; exit 1; }`);
      return /^[1-9]\d* \d+\n$/.test(noted) ? Number.parseInt(noted, 10) : undefined;
    });
    return new JailedProgram(capsule, dir, cgroups, pid);
  }

  /** The first lines that it has said, when there are so many. */
  async said(count: number): Promise<string[]> {
    return await until(`it says ${count} lines`, async () => {
      const text = await this.#capsule.host.exec(["cat", `${this.#dir}/said`]);
      const lines = text.split("\n").filter((line) => line !== "");
      // CRI: time, stream, F, text.
      return lines.length >= count ? lines.map((line) => line.split(" ").slice(3).join(" ")) : undefined;
    });
  }

  /** Ends it, if it has not ended, and waits until its jail has noted how: such as `signal 9`. Returns the note. */
  async kill(): Promise<string> {
    const script = `[ -e ${this.#dir}/monitor.exit ] || kill -9 ${this.pid} || true`;
    await this.#capsule.host.exec(["sh", "-c", script]);
    return await this.ended();
  }

  /** Waits until it has ended by itself; returns the note, such as `exit 0`. */
  async ended(): Promise<string> {
    return await until("its end is noted", async () =>
      (await this.#capsule.host.exec(["cat", `${this.#dir}/monitor.exit`])).trim(),
    );
  }

  /** Clears away what was made for it. It has ended. */
  async clear(): Promise<void> {
    const groups = this.#cgroups.map((group) => `until rmdir ${group}; do sleep 0.1; done`).join("; ");
    await this.#capsule.host.exec(["timeout", "10", "sh", "-c", `${groups}; rm -r ${this.#dir}`]);
  }
}

/** The first value that is one; faults meanwhile are told when none comes. */
export async function until<T>(what: string, value: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + 20_000;
  let fault: unknown;
  while (Date.now() < deadline) {
    try {
      const found = await value();
      if (found !== undefined) return found;
    } catch (error) {
      fault = error;
    }
    await sleep(100);
  }
  throw new Error(`not within 20 s: ${what}`, { cause: fault });
}
