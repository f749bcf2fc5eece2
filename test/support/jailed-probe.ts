/**
 * A program in the place of a virtual machine monitor that was taken over (native/capsule-init/examples/jail-probe.rs), in the
 * jail that the monitor of a backend would have: what the backend says of its program holds for it, but for what is run.
 */
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import type { Program } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import type { TestCapsule } from "./test-capsule.ts";

const native = join(repositoryRoot, "native");
const example = join(native, "target/x86_64-unknown-linux-gnu/release/examples/jail-probe");

export interface ProbeOptions {
  /** Of its directory, /run/NAME, and its control group. */
  readonly name: string;
  readonly program: Program;
  /** User and group. */
  readonly user: number;
  /** One for each argument of the probe. */
  readonly attempts: readonly string[];
}

export class JailedProbe {
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

  static async start(capsule: TestCapsule, options: ProbeOptions): Promise<JailedProbe> {
    const { name, user, attempts, program } = options;
    const { readySocket: _, files = [], readOnly, ...what } = program;
    const sh = (script: string): Promise<string> => capsule.host.exec(["sh", "-c", script]);
    await run(["cargo", "build", "--release", "--locked", "--quiet", "--example", "jail-probe"], { cwd: native });
    // Seen by the capsule as /perm/probe.
    const probeDir = join(capsule.local.perm, "probe");
    await mkdir(probeDir, { recursive: true });
    await copyFile(example, join(probeDir, "jail-probe"));
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
    const config = {
      ...what,
      filesPrefix: `${dir}/monitor`,
      root: `${dir}/root`,
      uid: user,
      gid: user,
      cgroups,
      readOnly: [...readOnly, "/perm/probe"],
      output: { dir, name: "said", maxBytes: 1024 ** 2, maxFiles: 2 },
      argv: ["/perm/probe/jail-probe", ...attempts],
    };
    await capsule.host.exec(["sh", "-c", `cat >${dir}/monitor.json`], JSON.stringify(config));
    await sh(`echo go | /sbin/capsule-init jail ${dir}/monitor.json >${dir}/jail 2>&1 &`);
    const pid = await until(`the jail of ${name} starts`, async () => {
      const noted = await sh(`cat ${dir}/monitor.pid || { cat ${dir}/jail >&2; exit 1; }`);
      return /^[1-9]\d* \d+\n$/.test(noted) ? Number.parseInt(noted, 10) : undefined;
    });
    return new JailedProbe(capsule, dir, cgroups, pid);
  }

  /** Its first lines, `ATTEMPT: RESULT`, when there are so many. */
  async said(count: number): Promise<string[]> {
    return await until(`${count} attempts are made`, async () => {
      const text = await this.#capsule.host.exec(["cat", `${this.#dir}/said`]);
      const lines = text.split("\n").filter((line) => line !== "");
      // CRI: time, stream, F, text.
      return lines.length >= count ? lines.map((line) => line.split(" ").slice(3).join(" ")) : undefined;
    });
  }

  /** Ends it, and waits until its jail has noted that: `signal 9`. Returns the note. */
  async kill(): Promise<string> {
    await this.#capsule.host.exec(["kill", "-9", String(this.pid)]);
    return await until("the end is noted", async () =>
      (await this.#capsule.host.exec(["cat", `${this.#dir}/monitor.exit`])).trim(),
    );
  }

  /** What its starter has to clear away. */
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
