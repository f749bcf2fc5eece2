/** Somebody with capsulectl: a home of their own, maybe on a network of their own. */
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { repositoryRoot } from "../../image/paths.ts";
import type { Result } from "./test-capsule.ts";

export class Operator {
  readonly #home: string;
  readonly #enter: readonly string[];

  /** `enter` is the command that runs another one on their machine. */
  constructor(home: string, enter: readonly string[] = []) {
    mkdirSync(home, { recursive: true });
    this.#home = home;
    this.#enter = enter;
  }

  /** Runs capsulectl without a terminal. `onNote` hears all that it has said on stderr, with each word more. */
  async ctl(args: readonly string[], onNote: (text: string) => void = () => undefined): Promise<Result> {
    const [command = "", ...rest] = [...this.#enter, join(repositoryRoot, "capsulectl"), ...args];
    const child = spawn(command, rest, {
      env: { PATH: process.env["PATH"] ?? "", HOME: this.#home, XDG_CONFIG_HOME: this.#home },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const said = { stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => {
      said.stdout += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      said.stderr += chunk.toString();
      onNote(said.stderr);
    });
    const code = await new Promise<number>((resolve) => child.once("close", (exit) => resolve(exit ?? -1)));
    return { code, ...said };
  }
}
